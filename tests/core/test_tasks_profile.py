"""The profile type ``tasks``: in every window, with every engine, on every wire."""

from __future__ import annotations

import threading
import zlib
from typing import Any

import pytest

import conprof_core as conprof
from conprof_core.exporters import naming
from conprof_core.testing import MemoryExporter, capture
from tests.support.check_valid import check_bytes


def blocked_in_lock(lock: Any, begun: threading.Semaphore) -> None:
    begun.release()
    lock.acquire()
    lock.release()


@pytest.mark.parametrize("name", ["tasks", "goroutine", "goroutines", "TASKS"])
def test_the_type_has_the_names_that_go_gives_it(name: str) -> None:
    assert conprof.Config(profile_types=["cpu", name]).profile_types == (conprof.CPU, conprof.TASKS)


def test_a_window_has_the_snapshot_of_its_end(engine: str) -> None:
    lock = threading.Lock()
    lock.acquire()
    begun = threading.Semaphore(0)
    threads = [threading.Thread(target=blocked_in_lock, args=(lock, begun)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert begun.acquire(timeout=30)
    with capture(profile_types=[conprof.TASKS]) as captured:
        try:
            assert conprof.flush(30)
        finally:
            lock.release()
            for thread in threads:
                thread.join(30)
    rows = [row for row in captured.rows if "blocked_in_lock" in [f[0] for f in row.frames]]
    rows = [row for row in rows if row.tasks]  # and not the CPU time of the same stacks
    assert sum(row.tasks for row in rows) == 12
    assert all("task.state" in dict(row.labels) for row in rows)
    profile = captured.windows[0].profiles[0]
    assert profile.name == "tasks"


@pytest.mark.parametrize("family", [naming.go, naming.blackfire, naming.pyroscope])
def test_the_profile_is_valid_on_every_wire(family: Any) -> None:
    config = conprof.Config(profile_types=["cpu", "tasks"])
    exporter = MemoryExporter(family(config.measured))
    profiler = conprof.Profiler(profile_types=["cpu", "tasks"], exporters=(exporter,))
    profiler.start()
    profiler.stop()
    (window,) = exporter.windows
    names = {naming.go: "tasks", naming.blackfire: "goroutines", naming.pyroscope: "goroutine"}
    (encoded,) = [one for one in window.profiles if one.name == names[family]]
    profile = check_bytes(zlib.decompress(encoded.pprof_gz, 16 + zlib.MAX_WBITS))
    assert sum(sample.values[0] for sample in profile.samples) >= 1


def test_otlp_has_it_in_a_request_of_its_own(engine: str) -> None:
    from conprof_core.exporters.naming import otlp

    config = conprof.Config(profile_types=["cpu", "tasks"])
    exporter = MemoryExporter(otlp(config.measured))
    profiler = conprof.Profiler(profile_types=["cpu", "tasks"], exporters=(exporter,))
    profiler.start()
    sum(range(10_000_000))
    profiler.stop()
    (window,) = exporter.windows
    cpu, tasks = (zlib.decompress(one.pprof_gz, 16 + zlib.MAX_WBITS) for one in window.profiles)
    assert b"process_cpu" in cpu
    for name in (b"goroutine", b"task.state"):
        assert name in tasks
        assert name not in cpu
