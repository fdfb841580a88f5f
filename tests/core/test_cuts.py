"""Readers cut windows: what is uploaded and what each reader gets stay right, on both engines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from support.check_valid import check_bytes
from support.pprof_reader import Profile

from conprof_core import Profiler, _profiler, testing
from conprof_core._cuts import Cuts, Reading, Unreadable
from conprof_core._engine import EngineWindow, Part, Row
from conprof_core._engine._table import PortableWindow
from conprof_core._engine.sums import join_rows
from conprof_core._limits import MAX_PIECES, MAX_READERS
from conprof_core.exporters import naming
from conprof_core.exporters.naming import Measured

from .conftest import burn

RATE = {"cpu_profile_rate": 250}


@contextmanager
def profiling(**options: object) -> Iterator[tuple[testing.MemoryExporter, Cuts]]:
    """Profile into memory; the cuts of the session."""
    exporter = testing.MemoryExporter()
    profiler = Profiler(**{**RATE, **options}, exporters=(exporter,))  # type: ignore[arg-type]
    exporter.naming = naming.go(profiler.config.measured)
    profiler.start()
    session = _profiler.session()
    assert session is not None
    try:
        yield exporter, session.loop.cuts
    finally:
        profiler.stop()


def in_thread(work: Callable[[], object]) -> None:
    """Run ``work`` in a thread that begins and ends with it."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def uploaded_cpu_ns(exporter: testing.MemoryExporter) -> int:
    return sum(
        check_bytes(one.pprof_gz).total("cpu")
        for window in exporter.windows
        for one in window.profiles
        if one.name == "cpu"
    )


def cpu_of(window: EngineWindow, function: str) -> int:
    return sum(
        row.cpu_ns for row in window.rows() if any(frame[0] == function for frame in row.frames)
    )


def first_work() -> None:
    burn(0.3)


def second_work() -> None:
    burn(0.3)


def third_work() -> None:
    burn(0.3)


@pytest.mark.parametrize("engine", ["native", "portable"], indirect=True)
def test_each_reader_gets_its_span_and_the_uploads_get_everything(engine: str) -> None:
    began_ns = time.process_time_ns()
    with profiling(period=3600) as (exporter, cuts):
        # Overlapping: one reads the first and second work, the other the second and third.
        one, other = Reading(), Reading()
        cuts.begin(one)
        first_work()
        cuts.begin(other)
        second_work()
        of_one = cuts.end(one)
        third_work()
        of_other = cuts.end(other)
    used_ns = time.process_time_ns() - began_ns
    assert len(exporter.windows) == 1, "the period is whole, however often it was cut"
    assert uploaded_cpu_ns(exporter) == pytest.approx(used_ns, rel=0.1)
    for window, works in (
        (of_one, {"first_work", "second_work"}),
        (of_other, {"second_work", "third_work"}),
    ):
        for work in ("first_work", "second_work", "third_work"):
            expected = 3e8 if work in works else 0
            assert cpu_of(window, work) == pytest.approx(expected, abs=0.7e8), work
        assert window.cpu_ns == sum(row.cpu_ns for row in window.rows())


def test_windows_that_end_while_somebody_reads_lose_nothing(engine: str) -> None:
    with profiling(period=3600) as (exporter, cuts):
        reading = Reading()
        cuts.begin(reading)
        first_work()
        assert _profiler.flush()
        second_work()
        window = cuts.end(reading)
    assert len(exporter.windows) == 2, "premise: a window ended within the reading"
    for work in ("first_work", "second_work"):
        assert cpu_of(window, work) == pytest.approx(3e8, abs=1.2e8)
    spans = [(window.start_ns, window.end_ns) for window in exporter.windows]
    assert spans[0][1] == pytest.approx(spans[1][0], abs=1e6), "no gap, no overlap"


def test_many_readers_at_once_and_one_too_many(engine: str) -> None:
    with profiling(period=3600) as (exporter, cuts):
        readings = [Reading() for _ in range(MAX_READERS)]
        for reading in readings:
            cuts.begin(reading)
        with pytest.raises(Unreadable, match="already"):
            cuts.begin(Reading())
        first_work()
        windows = [cuts.end(reading) for reading in readings]
        cuts.begin(again := Reading())
        cuts.abandon(again)
    assert MAX_READERS > MAX_PIECES, "premise: pieces were added up on the way"
    for window in windows:
        assert cpu_of(window, "first_work") == pytest.approx(3e8, abs=0.7e8)
    assert len(exporter.windows) == 1


def test_who_has_gone_frees_the_place(engine: str) -> None:
    with profiling(period=3600) as (_, cuts):
        for _ in range(MAX_READERS + 1):
            reading = Reading()
            cuts.begin(reading)
            cuts.abandon(reading)
            cuts.abandon(reading)
        before = Reading()
        cuts.abandon(before)
        cuts.begin(before)  # in a thread that had not got so far
        assert not cuts._readings


def test_a_reading_ends_with_the_session(engine: str) -> None:
    with profiling(period=3600) as (_, cuts):
        reading = Reading()
        cuts.begin(reading)
    with pytest.raises(Unreadable, match="stopped"):
        cuts.end(reading)
    with pytest.raises(Unreadable, match="stopped"):
        cuts.begin(Reading())
    with pytest.raises(Unreadable, match="stopped"):
        cuts.heap()


def test_a_pause_is_nobodys_window(engine: str) -> None:
    with profiling(period=1.5, cpu_duration=0.2) as (exporter, cuts):
        deadline = time.monotonic() + 30
        while not exporter.windows and time.monotonic() < deadline:
            time.sleep(0.01)
        assert exporter.windows, "premise: a pause has begun"
        in_thread(first_work)
        reading = Reading()
        cuts.begin(reading)
        in_thread(second_work)
        cuts.end(reading)
        while len(exporter.windows) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    first, second = [(one.start_ns, one.end_ns) for one in exporter.windows[:2]]
    assert second[0] > first[1] + 5e8, "pieces of the pause stand in no window"


def test_nothing_is_cut_while_nobody_reads(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[object] = []
    with profiling(period=3600) as (exporter, cuts):
        monkeypatch.setattr(cuts._engine, "join", lambda *_, **__: joined.append(1))
        first_work()
        assert _profiler.flush()
    assert len(exporter.windows) == 2
    assert joined == []


# Memory -------------------------------------------------------------------------------------------


HEAP = {"profile_types": "cpu,heap", "heap_sample_bytes": 4096, "pull": True, "period": 3600}


def allocate(count: int) -> list[bytes]:
    return [bytes(20_000) for _ in range(count)]


def bytes_of(window: EngineWindow, function: str, column: str) -> int:
    return sum(
        getattr(row, column)
        for row in window.rows()
        if any(frame[0] == function for frame in row.frames)
    )


@pytest.mark.usefixtures("native_engine")
def test_allocations_add_up_and_live_memory_does_not() -> None:
    with profiling(**HEAP) as (exporter, cuts):
        kept = allocate(100)
        first = cuts.heap()
        allocate(200)
        assert _profiler.flush()
        second = cuts.heap()
        del kept
        third = cuts.heap()
    allocated = [bytes_of(window, "allocate", "alloc_bytes") for window in (first, second, third)]
    alive = [bytes_of(window, "allocate", "inuse_bytes") for window in (first, second, third)]
    assert allocated[0] == pytest.approx(2e6, rel=0.1)
    assert allocated[1] == pytest.approx(6e6, rel=0.1)
    assert allocated[2] == allocated[1]
    assert alive[0] == pytest.approx(2e6, rel=0.1)
    assert alive[1] == pytest.approx(2e6, rel=0.1)
    assert alive[2] == 0
    assert first.start_ns == first.end_ns, "a state has no duration"
    uploaded = [
        sum(profile.total("alloc_space") for profile in profiles)
        for window in exporter.windows
        if (
            profiles := [check_bytes(one.pprof_gz) for one in window.profiles if one.name == "heap"]
        )
    ]
    assert sum(uploaded) == pytest.approx(6e6, rel=0.2), "each allocation is uploaded once"


@pytest.mark.usefixtures("native_engine")
def test_allocations_never_decrease_for_any_stack_and_labels() -> None:
    from conprof_core import labels

    def sums(window: EngineWindow) -> dict[object, int]:
        return {(row.frames, row.labels, row.thread_name): row.alloc_bytes for row in window.rows()}

    with profiling(**HEAP) as (_, cuts):
        before: dict[object, int] = {}
        for turn in range(4):
            for number in range(100):
                # More sets than are kept apart.
                with labels(number=str(100 * turn + number)):
                    allocate(3)
            now = sums(cuts.heap())
            decreased = {key for key, value in before.items() if now.get(key, 0) < value}
            assert not decreased
            before = now
        label_sets = {row.labels for row in cuts.heap().rows() if row.alloc_bytes}
    assert (("conprof.overflow", "labels"),) in label_sets, "premise: the bound was reached"
    assert len(label_sets) <= 256 + 1


@pytest.mark.usefixtures("native_engine")
def test_a_difference_of_live_memory_may_be_negative() -> None:
    with profiling(**HEAP) as (_, cuts):
        freed = allocate(200)
        reading = Reading()
        cuts.begin(reading, alive=True)
        del freed
        kept = allocate(50)
        window = cuts.end(reading, alive=True)
        assert kept
    shape = naming.pull_shape("heap", Measured(100, ("cpu", "heap"), 4096))
    pprof = window.encode_pprof(shape, naming.pull(), mapping_file="python")
    assert pprof is not None
    from support.pprof_reader import parse

    profile: Profile = parse(pprof)
    assert profile.total("inuse_space") == pytest.approx(1e6 - 4e6, rel=0.15)
    assert profile.total("alloc_space") == pytest.approx(1e6, rel=0.3)


@pytest.mark.usefixtures("native_engine")
def test_cuts_make_nothing_old() -> None:
    with profiling(**HEAP, heap_old_windows=2) as (_, cuts):
        kept = allocate(100)
        assert _profiler.flush()
        ages = []
        for _ in range(3):
            for _ in range(4):
                window = cuts.heap()
            ages.append(
                {dict(row.labels).get("heap.age") for row in window.rows() if row.inuse_bytes}
            )
            assert _profiler.flush()
        assert kept
    assert ages[0] == {None}
    assert "old" in ages[2], "premise: the ends of periods do"


# The two implementations of a sum -----------------------------------------------------------------


def row(
    name: str, *, labels: tuple[tuple[str, str], ...] = (), thread: str = "", **values: int
) -> Row:
    return Row(((name, f"/{name}.py", 2, 1),), labels, thread, **values)


def test_a_sum_counts_the_columns_that_are_asked_for() -> None:
    first = PortableWindow(
        [row("f", cpu_ns=5, inuse_bytes=7), row("g", cpu_ns=1)], 1, {"lost": 1}, 2
    )
    second = PortableWindow([row("f", cpu_ns=3, inuse_bytes=9)], 2, {"lost": 2}, 3)
    parts = [Part(first, ("cpu_ns",), ("inuse_bytes",)), Part(second)]
    total = join_rows(parts, start_ns=1, end_ns=3, max_label_sets=0, threads=True)
    assert set(total.rows()) == {row("f", cpu_ns=8, inuse_bytes=2), row("g", cpu_ns=1)}
    assert total.counters == {"lost": 3}
    assert (total.start_ns, total.end_ns, total.cpu_ns) == (1, 3, 9)


@pytest.mark.usefixtures("native_engine")
@pytest.mark.parametrize("threads", [True, False])
@pytest.mark.parametrize("max_label_sets", [0, 3])
def test_the_extension_adds_up_as_the_reference_does(threads: bool, max_label_sets: int) -> None:
    from conprof_core import labels
    from conprof_core._labels import context_var

    windows = []
    with profiling(**HEAP) as (_, cuts):
        kept = []
        for turn in range(3):
            for number in range(4):
                with labels(number=str(number)):
                    cell = context_var.get()
                    assert cell is not None
                    cell.set_trace(1, 2, number + 1)
                    kept.append(allocate(10 + turn))
                    in_thread(lambda: burn(0.05))
            windows.append(cuts._engine.take_window(ends_period=False))
        parts = [
            Part(windows[0], ("cpu_ns", "samples", "alloc_bytes"), ("inuse_bytes",)),
            Part(windows[1], ("alloc_bytes",)),
            Part(windows[2]),
        ]
        span = {"start_ns": 1, "end_ns": 2}
        options = {**span, "max_label_sets": max_label_sets, "threads": threads}
        total = cuts._engine.join(parts, **options)  # type: ignore[arg-type]
        expected = join_rows(parts, **options)  # type: ignore[arg-type]
    assert len(total.rows()) > 4, "premise: there is something to add up"

    def signed(rows: list[Row]) -> dict[object, tuple[int, ...]]:
        found: dict[object, tuple[int, ...]] = {}
        for one in rows:
            # The extension's rows are of uint64.
            values = tuple((value + (1 << 63)) % (1 << 64) - (1 << 63) for value in one[3:-1])
            if any(values):
                key = (*one[:3], one.trace)
                assert key not in found
                found[key] = values
        return found

    assert signed(total.rows()) == signed(expected.rows())
    assert any(one.trace for one in total.rows()) == threads
    assert (total.start_ns, total.end_ns) == (1, 2)
