"""Changes while a profiler runs: what is measured before, at and after the switch."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Self

import pytest
from support.check_valid import check_bytes
from support.pprof_reader import Profile
from support.process import run_script

import conprof_core as conprof
from conprof_core import ConfigError, Profiler, testing
from conprof_core._engine import Row

from .conftest import burn


class Running:
    """A profiler with an exporter in memory, and the rows of all its windows."""

    def __init__(self, **options: object) -> None:
        self.exporter = testing.MemoryExporter()
        self.profiler = Profiler(exporters=[self.exporter], **options)  # type: ignore[arg-type]
        self.exporter.measure(self.profiler.config.measured)
        self.rows: list[Row] = []
        self.profiler.observe(self.rows.extend)

    def __enter__(self) -> Self:
        self.profiler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.profiler.stop()

    def cpu_ns(self, function: str) -> int:
        return sum(
            row.cpu_ns for row in self.rows if any(frame[0] == function for frame in row.frames)
        )

    def profiles(self, name: str = "cpu") -> list[Profile]:
        return [
            check_bytes(profile.pprof_gz)
            for window in self.exporter.windows
            for profile in window.profiles
            if profile.name == name
        ]


def timers() -> int:
    path = Path("/proc/self/timers")
    return path.read_text().count("ID:") if path.exists() else 0


def activity() -> tuple[int, int]:
    stats = conprof.stats()["engine_stats"]
    return stats.get("signals", 0), stats.get("looks", 0)


def own_threads() -> int:
    from conprof_core._threads import own_idents

    # Of those that run: earlier tests leave the names of threads that could not begin.
    return len(own_idents & sys._current_frames().keys())


def wait_for(condition: object, what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def off_work() -> None:
    burn(0.4)


def on_work() -> None:
    burn(0.4)


def test_nothing_is_measured_while_it_is_off_and_sums_are_right_after(engine: str) -> None:
    with Running() as running:
        on_work()
        signals, looks = activity()
        assert signals or looks, "it measured before"
        state = conprof.reconfigure(enabled=False)
        assert state["enabled"] is False
        assert state["sources"]["enabled"] == "reconfigure()"
        assert conprof.is_running()
        assert conprof.stats()["enabled"] is False
        assert timers() == 0, "no timer, so no signal"
        before = activity()
        off_work()
        assert conprof.flush(), "what waits was sent; there is no window to close"
        assert activity() == before
        wait_for(lambda: own_threads() == 0, "no thread of ours is left")
        conprof.reconfigure(enabled=True)
        on_work()
    assert running.cpu_ns("off_work") == 0
    assert 0.68e9 < running.cpu_ns("on_work") < 0.88e9
    assert [window.sequence for window in running.exporter.windows] == [0, 1]
    first, second = running.exporter.windows
    assert second.start_ns - first.end_ns > 0.3e9, "the pause is in no window"
    assert len({window.tags["runtime-id"] for window in running.exporter.windows}) == 1


def test_standby_from_the_start(engine: str) -> None:
    with Running(enabled=False) as running:
        off_work()
        assert conprof.stats()["windows"] == 0
        assert conprof.stats()["control"]["sources"]["enabled"] == "argument"
        assert timers() == 0
        with conprof.labels(a="1"):
            conprof.reconfigure(enabled=True)
            on_work()
    assert running.cpu_ns("off_work") == 0
    assert 0.3e9 < running.cpu_ns("on_work") < 0.5e9


def test_a_rate_takes_effect_with_its_own_period_and_the_same_sums(engine: str) -> None:
    with Running(cpu_profile_rate=100) as running:
        on_work()
        conprof.reconfigure(cpu_profile_rate=20)
        assert conprof.stats()["rate_hz"] == 20
        began = time.monotonic()
        off_work()
        # The native engine counts in CPU time, the portable one in elapsed time.
        lasted = 0.4 if engine == "native" else time.monotonic() - began
    fast, slow = running.profiles()
    assert (fast.period, slow.period) == (10_000_000, 50_000_000)
    assert 0.33e9 < running.cpu_ns("on_work") < 0.45e9
    assert 0.33e9 < running.cpu_ns("off_work") < 0.45e9
    samples = {
        name: sum(row.samples for row in running.rows if any(f[0] == name for f in row.frames))
        for name in ("on_work", "off_work")
    }
    assert 2 <= samples["off_work"] <= 20 * lasted * 1.5 + 2
    assert samples["on_work"] > 12, "some 40, or fewer where a loaded machine looks late"


def test_no_time_is_lost_or_counted_twice_at_a_switch_of_the_rate(engine: str) -> None:
    rates = [200, 50, 1000, 100]
    switches = 0

    def work() -> float:
        nonlocal switches
        began = time.thread_time()
        while time.thread_time() < began + 1.0:
            burn(0.02)
            conprof.reconfigure(cpu_profile_rate=rates[switches % 4])
            switches += 1
        return time.thread_time() - began

    with Running() as running:
        used = work()
    assert switches > 20, "the premise: many switches"
    name = "test_no_time_is_lost_or_counted_twice_at_a_switch_of_the_rate.<locals>.work"
    assert running.cpu_ns(name) / 1e9 == pytest.approx(used, rel=0.04, abs=0.03)
    assert len(running.exporter.windows) >= switches


def test_types_bring_their_profiles(engine: str) -> None:
    if engine != "native":
        pytest.skip("heap and wall are the native engine's")
    kept = []
    with Running() as running:
        burn(0.05)
        state = conprof.reconfigure(profile_types="cpu, heap, wall, tasks")
        assert state["profile_types"] == ["cpu", "heap", "wall", "tasks"]
        kept = [bytearray(600_000) for _ in range(20)]
        time.sleep(0.3)
        on_work()
        conprof.reconfigure(profile_types=["cpu"])
        burn(0.05)
    names = [tuple(p.name for p in window.profiles) for window in running.exporter.windows]
    assert names[0] == ("cpu",)
    assert set(names[1]) == {"cpu", "heap", "wall", "tasks"}
    assert names[2] == ("cpu",)
    assert 0.3e9 < running.cpu_ns("on_work") < 0.5e9
    assert sum(row.inuse_bytes for row in running.rows) > 6_000_000
    assert sum(row.wall_ns for row in running.rows) > 0.5e9
    assert sum(row.tasks for row in running.rows) > 0
    assert len(kept) == 20


def test_tasks_with_any_engine(engine: str) -> None:
    with Running() as running:
        conprof.reconfigure(profile_types=["cpu", "tasks"])
        burn(0.05)
    assert running.profiles("tasks")


def test_a_period_takes_effect_at_once(engine: str) -> None:
    with Running(period=3600) as running:
        burn(0.1)
        state = conprof.reconfigure(period=0.2)
        assert (state["period"], state["cpu_duration"]) == (0.2, 0.2), "it measures all the time"
        wait_for(lambda: len(running.exporter.windows) >= 4, "windows come every 0.2 s")
        state = conprof.reconfigure(period=3600, cpu_duration=1)
        assert (state["period"], state["cpu_duration"]) == (3600, 1)


def test_a_switch_in_the_pause_of_a_period(engine: str) -> None:
    with Running(period=3600, cpu_duration=0.1) as running:
        wait_for(lambda: running.exporter.windows, "the first window ends")
        off_work()
        conprof.reconfigure(cpu_duration=3600)
        on_work()
    assert running.cpu_ns("off_work") == 0
    assert running.cpu_ns("on_work") > 0.3e9


@pytest.mark.parametrize(
    ("option", "value"),
    [("cpu_profile_rate", 0), ("profile_types", "cpu,lock"), ("enabled", "perhaps"), ("period", 0)],
)
def test_a_bad_value_changes_nothing(engine: str, option: str, value: object) -> None:
    with Running():
        before = conprof.stats()["control"]
        with pytest.raises(ConfigError) as caught:
            conprof.reconfigure(**{option: value})  # type: ignore[arg-type]
        assert caught.value.option == option
        result = conprof.apply_control({option: value})
        assert not result.is_applied
        assert result.is_refused
        assert option in result.error
        assert conprof.stats()["control"] == before


def test_apply_control_takes_text_and_says_who_asked(engine: str) -> None:
    with Running():
        result = conprof.apply_control({"cpu_profile_rate": "50", "period": "60"}, "pull handler")
        assert result == (True, False, "", conprof.stats()["control"])
        assert result.state["cpu_profile_rate"] == 50
        assert result.state["sources"]["period"] == "pull handler"
        assert result.state["sources"]["enabled"] == "default"
        assert conprof.apply_control({"disabled": "yes"}).state["enabled"] is False
        assert not conprof.apply_control({"enabled": "yes", "disabled": "yes"}).is_applied
        result = conprof.apply_control({"export_to": "file:///tmp"})
        assert not result.is_applied
        assert "cpu_profile_rate" in result.error, "says what can change"
    result = conprof.apply_control({"enabled": "no"})
    assert (result.is_applied, result.is_refused, result.state) == (False, False, {})
    assert "no profiler runs" in result.error
    assert conprof.reconfigure(enabled=True) == {}, "harmless when nothing runs"


def test_what_waits_is_sent_while_it_is_off(engine: str) -> None:
    from conprof_core.exporters import Outcome, Verdict

    with Running() as running:
        running.exporter.outcome = Outcome(Verdict.RETRY, "away")
        burn(0.05)
        assert conprof.flush(5) is False
        conprof.reconfigure(enabled=False)
        assert conprof.stats()["queued"] == 2
        running.exporter.outcome = Outcome(Verdict.DELIVERED)
        wait_for(lambda: conprof.stats()["queued"] == 0, "the planned retry is made in standby")
        wait_for(lambda: own_threads() == 0, "and then nothing of ours runs")


def test_start_again_is_no_change(engine: str) -> None:
    with Running() as running:
        conprof.reconfigure(enabled=False)
        running.profiler.start()
        assert conprof.stats()["enabled"] is False


def test_many_threads_at_once(engine: str) -> None:
    barrier = threading.Barrier(6)
    errors: list[BaseException] = []
    wanted = [
        {"enabled": False},
        {"enabled": True},
        {"cpu_profile_rate": 50},
        {"cpu_profile_rate": 500},
        {"profile_types": ["cpu", "tasks"]},
        {"profile_types": ["cpu", "heap", "wall"] if engine == "native" else ["cpu"]},
    ]

    def work(changes: dict[str, object]) -> None:
        try:
            barrier.wait(30)
            for _ in range(15):
                conprof.reconfigure(**changes)  # type: ignore[arg-type]
                conprof.stats()
                burn(0.005)
        except BaseException as error:
            errors.append(error)

    with Running() as running:
        threads = [threading.Thread(target=work, args=(changes,)) for changes in wanted]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in threads)
        assert not errors
        assert conprof.stats()["control"]["changes"] > 6, "the premise: they did disagree"
        conprof.reconfigure(enabled=True, cpu_profile_rate=100, profile_types=["cpu"])
        on_work()
    assert 0.3e9 < running.cpu_ns("on_work") < 0.5e9
    sequences = [window.sequence for window in running.exporter.windows]
    assert sequences == list(range(len(sequences)))


MANY = """
import os, sys, time
import conprof_core as conprof
from conprof_core import testing, _threads

def rss():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

exporter = testing.MemoryExporter()
exporter.windows = type("Nothing", (list,), {"append": lambda self, item: None})()
conprof.Profiler(exporters=[exporter]).start()

def switch(n):
    for i in range(n):
        conprof.reconfigure(enabled=bool(i % 2))
        conprof.reconfigure(cpu_profile_rate=50 + i % 7)
        if i % 10 == 0 and conprof.stats()["engine"] == "native":
            conprof.reconfigure(profile_types=["cpu", "heap", "wall"] if i % 20 else ["cpu"])
    conprof.reconfigure(enabled=True)

switch(150)
before = rss()
switch(500)
print("grown", rss() - before)
print("changes", conprof.stats()["control"]["changes"])
conprof.stop()
time.sleep(0.3)
print("threads", len(os.listdir("/proc/self/task")), len(_threads.own_idents))
print("errors", conprof.stats()["internal_errors"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_thousand_switches_leave_memory_flat_and_no_thread(engine: str) -> None:
    lines = dict(line.split(" ", 1) for line in run_script(MANY, timeout_s=180).stdout.splitlines())
    assert int(lines["changes"]) > 1_000
    assert int(lines["grown"]) < 3_000_000
    assert lines["threads"] == "1 0"
    assert lines["errors"] == "{}"


FORK = """
import os, sys, threading, time
import conprof_core as conprof
from conprof_core import testing
conprof.Profiler(exporters=[testing.MemoryExporter()]).start()

def burn(cpu_s):
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(500))

stop = threading.Event()
switched = 0

def switch():
    global switched
    while not stop.is_set():
        conprof.reconfigure(enabled=bool(switched % 2))
        conprof.reconfigure(cpu_profile_rate=50 + switched % 9)
        switched += 1

thread = threading.Thread(target=switch)
thread.start()
codes = []
for _ in range(15):
    before = switched
    while switched == before:
        time.sleep(0.0005)
    pid = os.fork()
    if pid == 0:
        state = conprof.reconfigure(enabled=True, cpu_profile_rate=80)
        burn(0.05)
        done = conprof.flush(10)
        stats = conprof.stats()
        os._exit(0 if done and stats["samples"] and state["cpu_profile_rate"] == 80 else 3)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
stop.set()
thread.join()
print("codes", set(codes), "switched", switched > 15)
print("errors", conprof.stats()["internal_errors"])
conprof.stop()
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork here")
def test_a_fork_while_another_thread_switches(engine: str) -> None:
    result = run_script(FORK, options=("-W", "ignore::DeprecationWarning"), timeout_s=120)
    assert "codes {0} switched True" in result.stdout, result.describe()
    assert "errors {}" in result.stdout, result.describe()


OFF_FORK = """
import os, warnings
warnings.simplefilter("error")
import conprof_core as conprof
from conprof_core import testing
from conprof_core.exporters import Outcome, Verdict
exporter = testing.MemoryExporter()
exporter.outcome = Outcome(Verdict.RETRY, "away")
conprof.Profiler(exporters=[exporter], control_file="/nowhere").start()
conprof.reconfigure(enabled=False)
pid = os.fork()
if pid == 0:
    assert conprof.stats()["enabled"] is False
    assert conprof.stats()["queued"] == 0, "what the parent holds, the parent sends"
    conprof.reconfigure(enabled=True)
    os._exit(0 if conprof.flush(5) is False else 4)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert conprof.stats()["queued"] == 1
exporter.outcome = Outcome(Verdict.DELIVERED)
assert conprof.flush(5)
conprof.stop()
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork here")
def test_a_fork_in_standby_is_one_of_a_single_thread(engine: str) -> None:
    """With a thread that waits for a file or for a retry, 3.12 would warn of it."""
    if engine == "portable" and sys.version_info >= (3, 13):
        pytest.skip("3.13 counts threads when the hooks have started them again")
    run_script(OFF_FORK)
