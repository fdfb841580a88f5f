"""Pauses of the garbage collector: how long, of which generation, and whom they hit."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator

import pytest

import conprof_core as conprof
from conprof_core import _native
from conprof_core._engine import Row
from conprof_core.testing import capture
from tests.support.process import run_script

pytestmark = pytest.mark.native_core


class Truth:
    """What a callback in Python measures of the same collections."""

    def __init__(self) -> None:
        self.began = 0
        self.ns = 0
        self.least_ns = 10**12
        self.count = 0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self.began = time.monotonic_ns()
        else:
            pause = time.monotonic_ns() - self.began
            self.ns += pause
            self.least_ns = min(pause, self.least_ns)
            self.count += 1


@pytest.fixture
def truth() -> Iterator[Truth]:
    """Collections happen where the test says, and are measured beside the profiler."""
    before = list(gc.callbacks)
    measured = Truth()
    gc.collect()
    gc.disable()
    yield measured
    gc.enable()
    gc.callbacks[:] = before


def pauses(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.gc_pause_ns]


def large_graph() -> list[list[list[int]]]:
    return [[[number]] for number in range(300_000)]


def test_a_planted_collection_falls_into_its_route(truth: Truth) -> None:
    def checkout() -> None:
        with conprof.labels(route="/checkout"):
            gc.collect()

    graph = large_graph()
    with capture(profile_types=[conprof.WALL]) as captured:
        gc.callbacks.append(truth)
        with conprof.labels(route="/quiet"):
            time.sleep(0.05)
        for _ in range(3):
            checkout()
        gc.callbacks.remove(truth)
    assert len(graph) == 300_000
    assert truth.count == 3, "the premise: nothing else collected"
    rows = pauses(captured.rows)
    routed = [row for row in rows if dict(row.labels) == {"route": "/checkout"}]
    assert abs(sum(row.gc_pause_ns for row in routed) - truth.ns) < 0.2 * truth.ns + 1e6
    for row in routed:
        assert row.frames[0][:2] == ("[gc generation 2]", "")
        assert row.frames[1][0].rpartition(".")[2] == "checkout"
    assert sum(row.gc_pauses for row in rows) == 3


def test_short_collections_are_added_up(truth: Truth) -> None:
    with capture(profile_types=[conprof.WALL]) as captured:
        gc.callbacks.append(truth)
        began = time.monotonic_ns()
        for _ in range(2_000):
            gc.collect(0)
        for _ in range(1_000):
            gc.collect(1)
        took = time.monotonic_ns() - began
        gc.callbacks.remove(truth)
    rows = pauses(captured.rows)
    found = {row.frames[0][0]: 0 for row in rows}
    for row in rows:
        found[row.frames[0][0]] += row.gc_pauses
    assert found == {"[gc generation 0]": 2_000, "[gc generation 1]": 1_000}
    assert truth.count == 3_000, "the premise: nothing else collected"
    # On a busy machine the thread is taken off its CPU between one callback and the other, so
    # that only the shortest is a measure.
    assert 0.3 * 3_000 * truth.least_ns < sum(row.gc_pause_ns for row in rows) < took


def test_a_collection_in_a_thread_is_that_threads(truth: Truth) -> None:
    def worker() -> None:
        with conprof.labels(job="sweep"):
            gc.collect()

    graph = large_graph()
    with capture(profile_types=[conprof.WALL]) as captured:
        thread = threading.Thread(target=worker, name="the-sweeper")
        thread.start()
        thread.join()
        # While the thread lives on as a row, another collects elsewhere.
        gc.collect()
    del graph
    own = [row for row in pauses(captured.rows) if dict(row.labels) == {"job": "sweep"}]
    assert {row.frames[0][0] for row in own} == {"[gc generation 2]"}
    assert sum(row.gc_pauses for row in own) == 1
    assert sum(row.gc_pauses for row in pauses(captured.rows)) == 2


def test_a_finalizer_may_let_others_run_meanwhile(truth: Truth) -> None:
    class Slow:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            time.sleep(0.05)

    def others() -> None:
        while not done.is_set():
            kept.append([[] for _ in range(100)])
            del kept[:]
            gc.collect(0)  # refused by CPython while the other is under way

    done, kept = threading.Event(), list[object]()
    with capture(profile_types=[conprof.WALL]) as captured:
        thread = threading.Thread(target=others)
        thread.start()
        Slow()
        gc.collect()
        done.set()
        thread.join()
    full = [row for row in pauses(captured.rows) if row.frames[0][0] == "[gc generation 2]"]
    assert sum(row.gc_pause_ns for row in full) >= 50e6


def test_the_list_belongs_to_everybody(truth: Truth) -> None:
    with capture(profile_types=[conprof.WALL]) as captured:
        assert gc.callbacks.count(_native.gc_callback) == 1
        gc.callbacks.insert(0, truth)
        gc.collect()
        gc.callbacks.clear()
        gc.collect()
        conprof.flush()
        assert gc.callbacks == [_native.gc_callback], "taken up again with the next window"
        gc.callbacks.append(truth)
        gc.collect()
    assert sum(row.gc_pauses for row in captured.rows) == 2
    assert gc.callbacks == [truth], "ours is gone, the other's is not"

    class Hostile(Truth):
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("compared")

        __hash__ = None  # type: ignore[assignment]

    gc.callbacks.insert(0, Hostile())
    with capture(profile_types=[conprof.WALL]):
        assert sum(one is _native.gc_callback for one in gc.callbacks) == 1
    assert len(gc.callbacks) == 2
    del gc.callbacks[0]
    assert _native.gc_callback("stop", {"generation": 2}) is None
    with pytest.raises(TypeError):
        _native.gc_callback("stop")  # type: ignore[call-arg]


def test_without_wall_time_nothing_is_measured(truth: Truth) -> None:
    with capture() as captured:
        assert _native.gc_callback not in gc.callbacks
        gc.collect()
    assert not pauses(captured.rows)


@pytest.mark.leaves_process
def test_fork_and_the_end_of_the_process() -> None:
    result = run_script(
        """
import gc, os
import conprof_core as conprof
from conprof_core import _native

class Forks:
    def __init__(self): self.me = self
    def __del__(self): children.append(os.fork())

children = []
conprof.start(profile_types="cpu,wall", export_to="file:///dev/null/none")
Forks()
gc.collect()            # the child begins in the middle of a collection
assert gc.callbacks.count(_native.gc_callback) == 1
for _ in range(200):
    gc.collect(0)
if children[0] == 0:
    conprof.stop()
    os._exit(0 if _native.gc_callback not in gc.callbacks else 1)
assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
print("through")        # the interpreter collects at its end, with the profiler on
"""
    )
    assert result.stdout.strip() == "through"
