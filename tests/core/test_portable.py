"""The portable engine: who is charged how much, under which labels, and what is bounded."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable

import pytest
from support.check_valid import check_bytes
from support.process import run_script

import conprof_core as conprof
from conprof_core import testing
from conprof_core._engine import _clocks, _table
from conprof_core._engine import portable as portable_module
from conprof_core._limits import LEAF_FRAMES, MAX_STACK_DEPTH

pytestmark = pytest.mark.skipif(
    os.environ.get("CONPROF_ENGINE") == "native", reason="CONPROF_ENGINE forces the other engine"
)


def burn(cpu_s: float) -> None:
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(500))


def burn_in_c(cpu_s: float) -> None:
    data = bytes(1 << 20)
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        hashlib.sha256(data).digest()


def run_threads(*targets: Callable[[], None]) -> None:
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_sums_are_the_cpu_time_of_the_process() -> None:
    before = time.process_time_ns()
    with testing.capture(engine="portable") as captured:
        run_threads(lambda: burn(0.4), lambda: burn_in_c(0.4), lambda: time.sleep(0.4))
    used = time.process_time_ns() - before
    total = sum(row.cpu_ns for row in captured.rows)
    # The process also runs the sampler and encodes the profile, which are not charged.
    assert 0.8 * used < total < 1.02 * used
    assert 0.36e9 < captured.cpu_ns("burn") < 0.45e9
    assert 0.36e9 < captured.cpu_ns("burn_in_c") < 0.45e9
    (window,) = captured.windows
    assert check_bytes(window.profiles[0].pprof_gz).total("cpu") == total


def test_blocked_threads_are_charged_nothing() -> None:
    release = threading.Event()
    waiting = [threading.Thread(target=release.wait, name=f"w{n}") for n in range(20)]
    for thread in waiting:
        thread.start()
    with testing.capture(engine="portable") as captured:
        burn(0.3)
    release.set()
    for thread in waiting:
        thread.join()
    blocked = sum(row.cpu_ns for row in captured.rows if row.thread_name.startswith("w"))
    assert blocked < 0.01e9


def test_short_threads_are_not_lost() -> None:
    with testing.capture(engine="portable") as captured:
        for _ in range(60):
            run_threads(lambda: burn(0.004))
    assert sum(row.cpu_ns for row in captured.rows) > 0.2e9


def test_a_window_is_independent_of_the_rate() -> None:
    totals = []
    for rate in (20, 200):
        with testing.capture(engine="portable", cpu_profile_rate=rate) as captured:
            burn(0.3)
        totals.append(sum(row.cpu_ns for row in captured.rows))
    assert all(0.28e9 < total < 0.4e9 for total in totals), totals


def test_labels_of_threads() -> None:
    def work(name: str) -> None:
        with conprof.labels(job=name):
            burn(0.2)

    with testing.capture(engine="portable") as captured:
        run_threads(lambda: work("a"), lambda: work("b"), lambda: burn(0.2))
    for name in "ab":
        assert 0.15e9 < captured.cpu_ns("burn", job=name) < 0.25e9


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Task.get_context is new in 3.12")
def test_labels_of_interleaved_tasks_and_their_children() -> None:
    async def child() -> None:
        for _ in range(10):
            burn(0.01)
            await asyncio.sleep(0)

    async def route(name: str) -> None:
        with conprof.labels({"http.route": name}):
            await asyncio.gather(child(), child())

    async def main() -> None:
        await asyncio.gather(route("/a"), route("/b"))

    with testing.capture(engine="portable", cpu_profile_rate=500) as captured:
        asyncio.run(main())
    a = captured.cpu_ns("burn", **{"http.route": "/a"})
    b = captured.cpu_ns("burn", **{"http.route": "/b"})
    assert 0.1e9 < a < 0.3e9
    assert 0.1e9 < b < 0.3e9
    assert a + b > 0.9 * captured.cpu_ns("burn")


def test_a_request_that_is_bound_after_its_samples() -> None:
    with testing.capture(engine="portable") as captured:
        with conprof.request_scope({"http.route": "-"}) as scope:
            burn(0.1)
            scope.bind({"http.route": "/late"})
            burn(0.1)
    assert captured.cpu_ns("burn", **{"http.route": "/late"}) > 0.15e9
    assert captured.cpu_ns("burn", **{"http.route": "-"}) == 0


def test_deep_stacks_keep_both_ends() -> None:
    def dive(depth: int) -> None:
        if depth:
            dive(depth - 1)
        else:
            burn(0.1)

    with testing.capture(engine="portable") as captured:
        dive(600)
    deep = [row for row in captured.rows if any(frame[0] == "[truncated]" for frame in row.frames)]
    assert deep
    for row in deep:
        assert len(row.frames) == MAX_STACK_DEPTH + 1
        assert row.frames[LEAF_FRAMES][0] == "[truncated]"
    assert captured.windows[0].counters["truncated"] == sum(row.samples for row in deep)


def test_rows_are_bounded_and_the_rest_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    table = _table.Table(max_stacks=2)
    frame = sys._getframe()
    for number in range(5):
        cell = conprof._labels.LabelCell(conprof._labels.intern_labels({"n": str(number)}))
        table.add(frame, cell, 0, 1_000)
    window = table.close()
    assert window.cpu_ns == 5_000
    assert window.counters["stack_table_full"] == 3
    lost = [row for row in window.rows() if row.frames[0][0] == "[lost]"]
    assert [(row.samples, row.cpu_ns) for row in lost] == [(3, 3_000)]


def test_an_idle_process_is_left_alone() -> None:
    with testing.capture(engine="portable") as captured:
        time.sleep(0.5)
        looks = conprof.stats()["engine_stats"]["looks"]
    assert looks < 40, "50 looks were due at 100 Hz"
    assert sum(row.cpu_ns for row in captured.rows) < 0.2e9


def test_the_estimate_where_threads_have_no_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portable_module, "best_clocks", _clocks.SharedClock)
    release = threading.Event()
    waiting = threading.Thread(target=release.wait, name="waiting")
    waiting.start()
    with testing.capture(engine="portable") as captured:
        burn(0.4)
    release.set()
    waiting.join()
    assert captured.cpu_ns("burn") > 0.3e9
    assert sum(row.cpu_ns for row in captured.rows if row.thread_name == "waiting") < 0.05e9


def test_threads_of_conprof_are_not_in_the_profile() -> None:
    with testing.capture(engine="portable", period=0.1) as captured:
        burn(0.4)
    # The main thread may be seen in start() and stop(); threads of conprof have no name.
    unnamed = [row for row in captured.rows if not row.thread_name]
    assert all(frame[0].startswith("[") for row in unnamed for frame in row.frames), unnamed
    assert len(captured.windows) > 2


def test_pauses_are_not_charged() -> None:
    engine = portable_module.PortableEngine()
    settings = portable_module.EngineSettings(100, 3_600, 100, lambda: None)
    engine.start(settings, lambda: 3_600.0)
    engine.pause()
    burn(0.2)
    engine.take_window()
    engine.resume()
    burn(0.1)
    engine.stop()
    window = engine.take_window()
    assert 0.05e9 < window.cpu_ns < 0.15e9


@pytest.mark.parametrize("clocks", [_clocks.ThreadClocks, _clocks.SharedClock])
def test_objects_of_the_application_die_when_they_should(
    clocks: type[_clocks.Clocks], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sampler that keeps a frame in a cycle keeps the locals of every thread, too."""

    class Thing:
        pass

    alive: list[weakref.ref[Thing]] = []

    def work() -> None:
        thing = Thing()
        alive.append(weakref.ref(thing))
        burn(0.03)

    if clocks is _clocks.ThreadClocks and not hasattr(time, "pthread_getcpuclockid"):
        pytest.skip("threads have no clocks here")
    monkeypatch.setattr(portable_module, "best_clocks", clocks)
    gc.collect()
    gc.disable()
    try:
        with testing.capture(engine="portable", cpu_profile_rate=1000) as captured:
            for _ in range(10):
                work()
                conprof.flush(1)
        assert captured.cpu_ns("burn") > 0.1e9
        assert not [ref for ref in alive if ref() is not None]
    finally:
        gc.enable()


def test_a_label_while_another_thread_is_still_importing_asyncio(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with testing.capture(engine="portable") as captured:
        # What sys.modules holds from the first to the last line of the package.
        monkeypatch.setitem(sys.modules, "asyncio", types.ModuleType("asyncio"))
        with conprof.labels(job="early"):
            burn(0.1)
        monkeypatch.undo()
    assert captured.cpu_ns("burn", job="early") > 0.05e9


ISOLATED = """
import sys, threading
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
inside = '''
import sys, time
sys.path[:] = PATH
import conprof_core
conprof_core.start(cpu_profile_rate=1000, export_to="none:")
assert not conprof_core.is_running()
time.sleep(0.3)
'''
def deep(n):
    return deep(n - 1) if n else sum(range(200))
interpreter = interpreters.create()
failed = []
def work():
    failed.append(
        interpreters.run_string(interpreter, inside.replace("PATH", repr(sys.path)))
    )
thread = threading.Thread(target=work)
thread.start()
while thread.is_alive():
    deep(20)
interpreters.destroy(interpreter)
print(failed)
"""


@pytest.mark.skipif(
    sys.version_info < (3, 13),
    reason="3.11's share an allocator; 3.12.1 hangs where one imports threading, without us too",
)
def test_an_isolated_subinterpreter_is_not_profiled() -> None:
    """It would make objects of our frames, in its own memory."""
    result = run_script(ISOLATED, env={"CONPROF_ENGINE": "portable"})
    assert result.stdout == "[None]\n"
    assert "not profiling this process" in result.stderr


def test_thread_without_a_frame_for_a_moment_is_charged_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the main thread between the end of the program and its exit hooks."""
    clocks = _clocks.ThreadClocks()
    clocks.skip()
    burn(0.2)
    assert sum(used.cpu_ns for used in clocks.look()) > 0.15e9
    with monkeypatch.context() as patch:
        patch.setattr(clocks, "_snapshot", list)
        assert not list(clocks.look())
    assert sum(used.cpu_ns for used in clocks.look()) < 0.1e9
