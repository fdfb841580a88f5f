"""``charge()``: what a thread used since its last sample goes to the labels that stand now.

At 1 Hz a timer hardly ever fires within these tests: what a window says was charged by the call.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.check_valid import check_bytes

import conprof_core
from conprof_core import _native
from conprof_core.testing import Captured, capture

pytestmark = pytest.mark.native_core


def burn(cpu_s: float) -> None:
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(500))


def cpu_of(captured: Captured, *labels: tuple[str, str]) -> float:
    return sum(row.cpu_ns for row in captured.rows if row.labels == labels) / 1e9


def set_label(name: str) -> None:
    _native.context_var.set(_native.LabelCell(_native.intern_labels({"job": name})))


def apart(function: Any) -> None:
    """Run in a thread of its own: its context, and its clock, begin with it."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_parts_shorter_than_a_period_go_to_their_own_labels() -> None:
    used = {"a": 0.0, "b": 0.0}

    def work() -> None:
        for number in range(100):
            name = "a" if number % 2 else "b"
            began = time.thread_time()
            set_label(name)
            burn(0.0015 if name == "a" else 0.0005)
            _native.charge()
            used[name] += time.thread_time() - began

    with capture(cpu_profile_rate=1) as captured:
        apart(work)
    for name, truth in used.items():
        assert abs(cpu_of(captured, ("job", name)) - truth) < 0.1 * truth, (name, truth)


def test_without_the_call_the_last_labels_get_everything() -> None:
    """The premise of the test above."""

    def work() -> None:
        set_label("a")
        burn(0.01)
        set_label("b")
        burn(0.001)

    with capture(cpu_profile_rate=1) as captured:
        for _ in range(5):
            apart(work)
    # Nothing, but for a timer whose random phase fell into one of the five.
    assert cpu_of(captured, ("job", "a")) < 0.025
    # From 3.14 on a thread has left its context when it ends: what is left has no labels.
    last = () if sys.version_info >= (3, 14) else (("job", "b"),)
    assert cpu_of(captured, *last) > 0.025


def test_counts_as_no_sample() -> None:
    with capture(cpu_profile_rate=1) as captured:
        before = _native.stats()["signals"]
        for _ in range(100):
            burn(0.0002)
            _native.charge()
        assert _native.stats()["signals"] - before <= 1
    assert sum(row.samples for row in captured.rows) <= 1


def test_nothing_runs() -> None:
    assert not conprof_core.is_running()
    _native.charge()
    with capture(cpu_profile_rate=1):
        pass
    _native.charge()


def test_a_pause_is_charged_to_nobody() -> None:
    def work() -> None:
        set_label("paused")
        _native.charge()
        _native.pause(True)
        burn(0.1)
        _native.charge()
        _native.pause(False)
        burn(0.02)
        _native.charge()

    with capture(cpu_profile_rate=1) as captured:
        apart(work)
    assert 0.019 < cpu_of(captured, ("job", "paused")) < 0.04


def test_a_thread_that_is_not_armed() -> None:
    """A thread that the hook did not see: nothing is charged twice, or lost."""
    import _thread

    done = threading.Event()
    used: list[float] = []

    def work() -> None:
        for _ in range(20):
            burn(0.005)
            _native.charge()
        used.append(time.thread_time())
        done.set()

    with capture(cpu_profile_rate=1) as captured:
        began = time.process_time()
        _thread.start_new_thread(work, ())
        assert done.wait(30)
        took = time.process_time() - began
    total = sum(row.cpu_ns for row in captured.rows) / 1e9
    assert used[0] >= 0.1
    assert took - 0.01 < total < took + 0.05


def test_threads_that_charge_while_windows_are_taken() -> None:
    """Every nanosecond is in one window, whoever takes it and when."""
    with capture(cpu_profile_rate=1000) as captured:
        began = time.process_time()

        def work() -> None:
            set_label("a")
            for _ in range(100):
                burn(0.0005)
                _native.charge()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            assert conprof_core.flush()
        for thread in threads:
            thread.join()
        took = time.process_time() - began
    total = sum(row.cpu_ns for row in captured.rows) / 1e9
    assert abs(total - took) < 0.05 * took + 0.01


def test_in_a_forked_child() -> None:
    read, write = os.pipe()
    with capture(cpu_profile_rate=1):
        burn(0.3)
        _native.charge()
        pid = os.fork()
        if pid == 0:
            try:
                _native.charge()
                burn(0.05)
                _native.charge()
                charged_ns = conprof_core.stats()["engine_stats"]["accounted_ns"]
                os.write(write, str(charged_ns).encode())
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            charged_s = int(pipe.read()) / 1e9
        assert os.waitpid(pid, 0)[1] == 0
    assert 0.05 <= charged_s < 0.2, "its own CPU, and none of the parent's"


def first(cpu_s: float) -> None:
    burn(cpu_s)


def second(cpu_s: float) -> None:
    burn(cpu_s)


def function_cpu(captured: Captured, function: str, *labels: tuple[str, str]) -> float:
    return (
        sum(
            row.cpu_ns
            for row in captured.rows
            if row.labels == labels and any(frame[0] == function for frame in row.frames)
        )
        / 1e9
    )


def test_items_shorter_than_a_period_are_seen_in_their_functions() -> None:
    """Of an item that ends between two samples the labels are known; samples say where it was."""
    used = {"a": 0.0, "b": 0.0}

    def item(name: str, cpu_s: float) -> None:
        began = time.thread_time()
        first(cpu_s)
        second(cpu_s)
        used[name] += time.thread_time() - began

    def serve(pool: ThreadPoolExecutor) -> None:
        for name, cpu_s in (("a", 0.003), ("b", 0.001)) * 200:
            with conprof_core.labels(job=name):
                pool.submit(item, name, cpu_s).result()

    with capture(cpu_profile_rate=100) as captured, ThreadPoolExecutor(1) as pool:
        serve(pool)
    samples = sum(row.samples for row in captured.rows if row.labels)
    assert 40 < samples < 400, "the premise: most items end without a sample"
    for name, truth in used.items():
        label = ("job", name)
        found = [function_cpu(captured, function, label) for function in ("first", "second")]
        # What the pool does around an item has its labels, too.
        assert 0.95 * truth < cpu_of(captured, label) < 1.2 * truth + 0.05, name
        # A sanitizer makes the pool's own code, and what we do in it, the most of an item.
        least = 0.6 if "CONPROF_UNDER_SANITIZER" in os.environ else 0.75
        assert sum(found) > least * cpu_of(captured, label), name
        # Some 120 and 40 samples: four standard deviations.
        assert abs(found[0] / sum(found) - 0.5) < (0.2 if name == "a" else 0.35), name


def test_spreading_changes_no_sum() -> None:
    def item() -> None:
        burn(0.002)

    with capture(cpu_profile_rate=100, profile_types=["cpu", "wall"]) as captured:
        began = time.process_time()
        with ThreadPoolExecutor(3) as pool:
            for number in range(150):
                with conprof_core.labels(job=str(number % 7)):
                    pool.submit(item)
        took = time.process_time() - began
    rows = [row for row in captured.rows if row.frames[0][0] != "[conprof drain]"]
    assert abs(sum(row.cpu_ns for row in captured.rows) / 1e9 - took) < 0.02 + 0.02 * took
    assert all(row.wall_ns >= row.cpu_ns for row in rows)
    window = captured.windows[-1]
    values = [check_bytes(p.pprof_gz) for p in window.profiles]
    assert values, "the premise: something was encoded"


def test_a_thread_for_each_request() -> None:
    """What a thread does before and after its request, at a rate that never samples it."""
    used = {"request": 0.0, "around": 0.0}

    def serve() -> None:
        began = time.thread_time()
        burn(0.001)
        with conprof_core.request_scope({"http.route": "-"}) as scope:
            entered = time.thread_time()
            burn(0.003)
            scope.bind({"http.route": "/x"})
            left = time.thread_time()
        burn(0.001)
        used["request"] += left - entered
        used["around"] += entered - began + time.thread_time() - left

    with capture(cpu_profile_rate=1) as captured:
        for _ in range(100):
            apart(serve)
    found = {row.thread_name for row in captured.rows}
    assert not any(character.isdigit() for name in found for character in name), found
    assert len(found) <= 4, found
    found = cpu_of(captured, ("http.route", "/x"))
    assert abs(found - used["request"]) < 0.02 * used["request"]
    expected = {serve.__qualname__, "burn", "Thread.run"}
    elsewhere = sum(  # one sample may fall anywhere
        row.cpu_ns
        for row in captured.rows
        if row.labels == (("http.route", "/x"),) and row.frames[0][0] not in expected
    )
    assert elsewhere < 0.05 * used["request"] * 1e9


def test_a_thread_that_lives_on_is_charged_by_its_samples() -> None:
    def serve_many() -> None:
        for _ in range(500):
            with conprof_core.request_scope({"http.route": "/x"}):
                burn(0.0001)

    charged = []
    for _ in range(5):
        with capture(cpu_profile_rate=1) as captured:
            apart(serve_many)
        charged.append(cpu_of(captured, ("http.route", "/x")))
    # The first 64 charges, at the begin and the end of 32 requests, and no more; but for a timer
    # whose random phase fell into one of the five.
    assert 0.002 < sorted(charged)[2] < 0.025, "of 50 ms"
