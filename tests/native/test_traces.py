"""Ids of traces in cells, records of the ring and rows: written once, late, by others, bounded."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
from typing import Any

import pytest
from support.check_valid import check_bytes

from conprof_core import Profiler, _native, request_scope
from conprof_core._limits import MAX_TRACES
from conprof_core.exporters import naming
from conprof_core.testing import Captured, MemoryExporter, capture

pytestmark = pytest.mark.native_core

EMPTY = _native.intern_labels({}) if hasattr(_native, "intern_labels") else None
MAX_LATE = 4_096  # CONPROF_MAX_LATE_TRACES
# The sanitizers slow the interpreter, not the clock.
FEW = 200 if os.environ.get("CONPROF_UNDER_SANITIZER") else 2_000


def burn(cpu_s: float) -> None:
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(500))


def traces(captured: Captured, function: str, column: str = "samples") -> dict[Any, int]:
    found: dict[Any, int] = {}
    for row in captured.rows:
        value = getattr(row, column)
        if value and any(frame[0].endswith(function) for frame in row.frames):
            found[row.trace] = found.get(row.trace, 0) + value
    return found


def in_cell(cell: Any, work: Any) -> None:
    """Run something in a context that shows a cell and nothing else."""
    context = contextvars.Context()
    context.run(_native.context_var.set, cell)
    context.run(work)


def test_ids_are_written_once() -> None:
    cell = _native.LabelCell(EMPTY)
    assert cell.trace is None
    assert not cell.set_trace(1, 2, 0), "span 0 is none"
    assert cell.set_trace(1, 2, 3)
    assert not cell.set_trace(4, 5, 6)
    assert cell.trace == (1, 2, 3)
    below = _native.LabelCell(EMPTY, within=cell)
    cell.end_trace()
    assert cell.trace is None
    assert not cell.set_trace(4, 5, 6), "a handler may still read what was there"
    assert below.trace == (1, 2, 3)
    assert _native.LabelCell(EMPTY, within=cell).trace is None
    top = (1 << 64) - 1
    assert below.__class__(EMPTY).set_trace(top, top, top)
    with pytest.raises(TypeError):
        cell.set_trace("1", 2, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        _native.LabelCell(EMPTY, within=None)  # type: ignore[arg-type]


def test_every_bit_arrives() -> None:
    high, low, span = 0xF000_0000_0000_0001, 0x8000_0000_0000_0002, 0xFFFF_FFFF_FFFF_FFFE
    cell = _native.LabelCell(EMPTY)
    cell.set_trace(high, low, span)
    with capture(cpu_profile_rate=1000) as captured:
        in_cell(cell, lambda: burn(0.1))
    assert set(traces(captured, "burn")) == {(high << 64 | low, span)}


@pytest.mark.parametrize("provisional", [True, False])
def test_late_ids_are_for_cells_that_wait_to_be_bound(provisional: bool) -> None:
    """A cell that is bound emits no id of its own: its rows merge with those of other requests."""
    cell = _native.LabelCell(EMPTY, provisional=provisional)

    def before() -> None:
        burn(0.1)

    def after() -> None:
        burn(0.1)

    with capture(cpu_profile_rate=1000) as captured:
        in_cell(cell, before)
        cell.set_trace(0, 1, 2)
        in_cell(cell, after)
        cell.bind(_native.intern_labels({"http.route": "/x"}))
    assert set(traces(captured, "before")) == {(1, 2) if provisional else None}
    assert set(traces(captured, "after")) == {(1, 2)}


def test_ended_ids_are_on_no_later_sample() -> None:
    cell = _native.LabelCell(EMPTY)
    cell.set_trace(0, 1, 2)

    def before() -> None:
        burn(0.1)

    def after() -> None:
        burn(0.1)

    with capture(cpu_profile_rate=1000) as captured:
        in_cell(cell, before)
        cell.end_trace()
        in_cell(cell, after)
    assert set(traces(captured, "before")) == {(1, 2)}
    assert set(traces(captured, "after")) == {None}


def test_a_cell_changed_while_other_threads_are_sampled_in_it() -> None:
    """Four threads burn without the GIL in cells that the main thread gives ids, ends and binds."""
    import hashlib

    block = bytes(1 << 20)
    is_done = threading.Event()
    wanted = {(0x11 << 64 | 0x22, 0x33)}
    cells = [_native.LabelCell(EMPTY, provisional=True) for _ in range(4)]

    def work(number: int) -> None:
        while not is_done.is_set():
            _native.context_var.set(cells[number])
            hashlib.sha256(block).digest()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    with capture(cpu_profile_rate=1000, profile_types="cpu,wall") as captured:
        for thread in threads:
            thread.start()
        until = time.monotonic() + 1.5
        changes = 0
        while time.monotonic() < until:
            for number, cell in enumerate(cells):
                cell.set_trace(0x11, 0x22, 0x33)
                changes += 1
                if changes % 3 == 0:
                    cell.end_trace()
                cell.bind(EMPTY)
                cells[number] = _native.LabelCell(EMPTY, provisional=True)
            time.sleep(0.001)
        is_done.set()
        for thread in threads:
            thread.join()
    assert changes > 100, "premise"
    found = traces(captured, "work")
    assert set(found) <= wanted | {None}, "ids are whole or absent"
    assert set(found) & wanted


def test_wall_time_has_the_ids() -> None:
    """Of a thread that blocks, seen from outside, and of a task that awaits."""

    def blocks() -> None:
        time.sleep(0.5)

    async def awaits() -> None:
        await asyncio.sleep(0.5)

    async def main() -> None:
        with request_scope({}) as scope:
            cell = _native.context_var.get()
            assert cell is not None
            cell.set_trace(0, 5, 6)
            await asyncio.gather(asyncio.to_thread(blocks), awaits())
            scope.bind({"http.route": "/w"})

    with capture(profile_types="cpu,wall") as captured:
        asyncio.run(main())
    assert set(traces(captured, "blocks", "wall_ns")) == {(5, 6)}
    assert set(traces(captured, "awaits", "wall_ns")) <= {(5, 6)}


def test_an_allocation_has_the_ids_and_what_lives_has_none() -> None:
    kept: list[bytearray] = []
    cell = _native.LabelCell(EMPTY, provisional=True)

    def allocates() -> None:
        kept.append(bytearray(3_000_000))

    with capture(profile_types="heap", heap_sample_bytes=1024) as captured:
        in_cell(cell, allocates)
        cell.set_trace(0, 7, 8)
        in_cell(cell, allocates)
        cell.bind(EMPTY)
    alive, made = (traces(captured, "allocates", of) for of in ("inuse_bytes", "alloc_bytes"))
    assert set(made) == {(7, 8)}
    assert 6_000_000 <= made[7, 8] < 6_100_000
    assert set(alive) == {None}
    assert 6_000_000 <= alive[None] < 6_100_000


def allocate_in(count: int, *, late: bool) -> Captured:
    """Capture one sampled allocation in each of ``count`` cells with ids of their own."""

    def allocates() -> None:
        bytearray(100_000)

    with capture(profile_types="heap", heap_sample_bytes=1024) as captured:
        for number in range(count):
            cell = _native.LabelCell(EMPTY, provisional=late)
            if not late:
                cell.set_trace(0, 1, number + 1)
            in_cell(cell, allocates)
            if late:
                cell.set_trace(0, 1, number + 1)
                cell.bind(EMPTY)
    return captured


@pytest.mark.parametrize(("late", "bound"), [(False, MAX_TRACES), (True, MAX_LATE)])
def test_beyond_the_bound_samples_merge_without_ids(late: bool, bound: int) -> None:
    captured = allocate_in(bound + 500, late=late)
    made = traces(captured, "allocates", "alloc_bytes")
    assert len(made) == bound + 1
    assert sum(made.values()) >= (bound + 500) * 100_000, "nothing is lost but the ids"
    assert made[None] >= 500 * 100_000
    (window,) = captured.windows
    # Of the threads' CPU time, too, some samples fall behind the bound.
    assert 500 <= window.counters["trace_ids_refused"] < 1_000
    assert "stack_table_full" not in window.counters


def test_ids_make_no_label_sets() -> None:
    """Neither for the bound of a naming, nor for that of the process."""
    exporter = MemoryExporter(naming.pyroscope(naming.Measured(types=("heap",))))
    profiler = Profiler(profile_types="heap", heap_sample_bytes=1024, exporters=[exporter])
    cell_labels = _native.intern_labels({"http.route": "/one"})
    before = _native.stats()["label_sets"]

    def allocates() -> None:
        bytearray(100_000)

    profiler.start()
    for number in range(FEW):
        cell = _native.LabelCell(cell_labels)
        cell.set_trace(0, 1, number + 1)
        in_cell(cell, allocates)
    assert _native.stats()["label_sets"] == before
    profiler.stop()
    (window,) = exporter.windows
    profiles = [check_bytes(profile.pprof_gz) for profile in window.profiles]
    labels = [sample.labels for profile in profiles for sample in profile.samples]
    assert exporter.naming.max_label_sets < 1_000
    spans = [shown["span_id"] for shown in labels if "span_id" in shown]
    assert set(spans) >= {f"{number + 1:016x}" for number in range(FEW)}
    assert all("conprof_overflow" not in shown for shown in labels)


def test_a_process_without_traces_holds_no_tables_for_them() -> None:
    """A record of the ring and a row are as without the feature; see also the C assertion."""
    with capture(cpu_profile_rate=1000) as captured:
        burn(0.1)
    assert all(row.trace is None for row in captured.rows)
    assert captured.windows[0].counters.get("trace_ids_refused", 0) == 0
