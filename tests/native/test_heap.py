"""Allocations as the native engine sees them: what was allocated, what is alive, and under whom."""

from __future__ import annotations

import ctypes
import gc
import itertools
import mmap
import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from support.check_valid import check_bytes

from conprof_core import _native
from conprof_core._engine import Row
from conprof_core.testing import Captured, capture

pytestmark = pytest.mark.native_core

MEAN = 4096


def measured(**options: Any) -> Any:
    return capture(profile_types="heap", **{"heap_sample_bytes": MEAN} | options)


def of(rows: list[Row], function: str, **labels: str) -> tuple[int, int, int, int]:
    """Sums of the four columns where a function stands on the stack."""
    sums = [0, 0, 0, 0]
    for row in rows:
        stands = any(frame[0].endswith(function) for frame in row.frames)
        if stands and all(pair in row.labels for pair in labels.items()):
            values = (row.alloc_objects, row.alloc_bytes, row.inuse_objects, row.inuse_bytes)
            sums = [old + new for old, new in zip(sums, values, strict=True)]
    return (sums[0], sums[1], sums[2], sums[3])


def near(value: float, truth: float, tolerance: float = 0.15) -> bool:
    return abs(value - truth) <= tolerance * truth


def make_small(count: int) -> list[bytes]:
    size = 400 - bytes.__basicsize__
    return [bytes(size) for _ in itertools.repeat(None, count)]


def make_large(count: int) -> list[bytes]:
    return [bytes(100_000 - bytes.__basicsize__) for _ in itertools.repeat(None, count)]


@pytest.mark.parametrize(("make", "size"), [(make_small, 400), (make_large, 100_000)])
def test_what_is_alive_and_what_is_not(make: Callable[[int], list[bytes]], size: int) -> None:
    count = 20_000_000 // size
    with measured() as captured:
        kept = make(count)
        make(count)
    objects, _, live_objects, live_bytes = of(captured.rows, make.__name__)
    # Some 5000 samples of small blocks: 1.4 % is one standard deviation.
    assert near(live_bytes, count * size + sys.getsizeof(kept), 0.08)
    assert near(live_objects, count, 0.1)
    assert objects >= 1.9 * count
    del kept


def test_nothing_is_left_of_what_was_freed() -> None:
    with measured() as captured:
        make_small(50_000)
        gc.collect()
    objects, allocated, live_objects, _ = of(captured.rows, "make_small")
    assert near(objects, 50_000, 0.1)
    assert allocated > 50_000 * 400 * 0.9
    assert live_objects == 0


def test_freed_by_another_thread() -> None:
    with measured() as captured:
        kept = make_small(30_000)
        freer = threading.Thread(target=kept.clear)
        freer.start()
        freer.join()
        assert not kept
    assert of(captured.rows, "make_small")[3] < 1000


def test_growth_by_realloc_is_one_live_block() -> None:
    """A list that grows frees its old items each time."""
    with measured() as captured:

        def grow() -> list[None]:
            items: list[None] = []
            for _ in range(1_000_000):
                items.append(None)
            return items

        kept = grow()
    _, allocated, live_objects, live_bytes = of(captured.rows, "grow")
    assert live_objects == 1
    assert near(live_bytes, sys.getsizeof(kept), 0.05)
    assert allocated > 3 * live_bytes


@pytest.mark.skipif(
    "CONPROF_UNDER_SANITIZER" in os.environ, reason="the sanitizer ends what asks for too much"
)
def test_realloc_that_fails_keeps_the_block() -> None:
    api = ctypes.pythonapi
    api.PyMem_Malloc.restype = api.PyMem_Realloc.restype = ctypes.c_void_p
    api.PyMem_Malloc.argtypes = [ctypes.c_size_t]
    api.PyMem_Realloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    api.PyMem_Free.argtypes = [ctypes.c_void_p]
    with measured() as captured:

        def hold() -> int:
            block = api.PyMem_Malloc(10_000_000)
            assert api.PyMem_Realloc(block, sys.maxsize - 4096) is None
            return int(block)

        block = hold()
    assert near(of(captured.rows, "hold")[3], 10_000_000, 0.01)
    api.PyMem_Free(block)


def test_raw_without_the_gil() -> None:
    """ctypes.CDLL gives the GIL away: RAW allows that, and who allocated is still known."""
    library = ctypes.CDLL(None)
    library.PyMem_RawMalloc.restype = ctypes.c_void_p
    library.PyMem_RawMalloc.argtypes = [ctypes.c_size_t]
    library.PyMem_RawFree.argtypes = [ctypes.c_void_p]
    blocks: list[int] = []
    with measured() as captured:

        def hold() -> None:
            for _ in range(200):
                library.PyMem_RawFree(library.PyMem_RawMalloc(50_000))
            blocks.append(library.PyMem_RawMalloc(3_000_000))

        threads = [threading.Thread(target=hold) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    _, allocated, _, live_bytes = of(captured.rows, "hold")
    assert near(live_bytes, 12_000_000, 0.01)
    assert near(allocated, 4 * (200 * 50_000 + 3_000_000), 0.1)
    for block in blocks:
        library.PyMem_RawFree(block)


def test_labels_of_the_time_of_allocation() -> None:
    labels = _native.intern_labels({"http.route": "/leak"})
    with measured() as captured:
        token = _native.context_var.set(_native.LabelCell(labels))
        kept = make_small(20_000)
        _native.context_var.reset(token)
        other = make_small(10_000)
    name = "make_small"
    assert near(of(captured.rows, name, **{"http.route": "/leak"})[3], 8_000_000)
    assert near(of(captured.rows, name)[3], 12_000_000)
    del kept, other


@pytest.mark.parametrize("windows_before_bind", [0, 2])
def test_a_block_ends_under_the_route_that_is_bound_later(windows_before_bind: int) -> None:
    from conprof_core import flush

    base, final = _native.intern_labels({"m": "GET"}), _native.intern_labels({"http.route": "/x"})
    cell = _native.LabelCell(base, provisional=True)
    with measured() as captured:
        token = _native.context_var.set(cell)
        kept = make_small(20_000)
        _native.context_var.reset(token)
        for _ in range(windows_before_bind):
            captured.rows.clear()
            flush()
        cell.bind(final)
        flush()
        captured.rows.clear()
    assert near(of(captured.rows, "make_small", **{"http.route": "/x"})[3], 8_000_000)
    assert of(captured.rows, "make_small", m="GET")[3] == 0
    del kept


def test_code_that_died_still_names_its_block() -> None:
    with measured() as captured:
        space: dict[str, Any] = {}
        exec("def short_lived(n):\n    return [bytes(367) for _ in range(n)]", space)
        kept = space.pop("short_lived")(20_000)
        gc.collect()
        for i in range(500):
            exec(f"def filler_{i}(): return bytes(10_000)\nfiller_{i}()", {})
    assert near(
        of(captured.rows, "short_lived")[3] or of(captured.rows, "<listcomp>")[3], 8_000_000
    )
    del kept


def test_functions_that_a_profile_cannot_tell_apart_share_their_rows() -> None:
    """Of one name, file and line, with other code, as two lambdas of a line are."""
    kept = []
    with measured() as captured:
        for body in ("bytes(967)", "bytes(  967  )", "bytes(900 + 67)"):
            space: dict[str, Any] = {}
            exec(f"def twin(n):\n for _ in range(n): yield {body}", space)
            kept.append(list(space["twin"](5_000)))
    rows = [row for row in captured.rows if row.frames[0][0] == "twin"]
    assert near(sum(row.inuse_bytes for row in rows), 15_000_000)
    # Beside the line of the bytes, generators may have been sampled where they begin.
    assert len({(row.frames, row.labels, row.thread_name) for row in rows}) == len(rows) <= 3
    check_bytes(captured.windows[0].profiles[0].pprof_gz)
    del kept


def test_blocks_of_an_earlier_session_are_forgotten_and_may_be_freed() -> None:
    with measured():
        kept = make_small(20_000)
    with measured() as captured:
        kept.clear()
        again = make_small(10_000)
    assert near(of(captured.rows, "make_small")[3], 4_000_000)
    with measured() as captured:
        assert len(again) == 10_000
    assert of(captured.rows, "make_small")[2] == 0


def test_a_full_table_thins_itself_and_stays_right() -> None:
    with measured(heap_sample_bytes=1024) as captured:
        before = _native.stats()["heap_mean_bytes"]
        kept = [bytes(1000 - bytes.__basicsize__) for _ in range(150_000)]
        from conprof_core import flush

        flush()
        stats = _native.stats()
        captured.rows.clear()
    assert (before, stats["heap_blocks_refused"]) == (1024, 0)
    assert stats["heap_mean_bytes"] > 1024, "the premise: the table filled"
    assert stats["heap_blocks"] <= 32768
    live = sum(row.inuse_bytes for row in captured.rows)
    assert near(live, 150_000_000 + sys.getsizeof(kept), 0.05)
    del kept


@pytest.mark.parametrize("first", [True, False], ids=["tracemalloc below", "tracemalloc above"])
def test_together_with_tracemalloc(first: bool) -> None:
    if first:
        tracemalloc.start()
    with measured() as captured:
        if not first:
            tracemalloc.start()
        kept = make_small(20_000)
        traced = tracemalloc.get_traced_memory()[0]
        if not first:
            tracemalloc.stop()
            make_small(1_000)
    if first:
        tracemalloc.stop()
    assert traced > 20_000 * 400
    assert near(of(captured.rows, "make_small")[3], 8_000_000)
    del kept
    with measured() as captured:
        kept = make_small(20_000)
    assert near(of(captured.rows, "make_small")[3], 8_000_000)
    del kept


def test_tracemalloc_that_takes_our_place_is_noticed() -> None:
    """Stopped while we are above it, it puts back what it found: our hooks are gone."""
    from conprof_core import flush

    tracemalloc.start()
    with measured() as captured:
        old = make_small(1_000)
        tracemalloc.stop()
        flush()
        stats = _native.stats()
        captured.rows.clear()
        kept = make_small(20_000)
    # What ended meanwhile is not known, so what was alive is forgotten; all later is right.
    assert stats["heap_hooks_detached"] == 1
    assert near(of(captured.rows, "make_small")[3], 8_000_000)
    del kept, old


@pytest.mark.leaves_process
def test_fork_leaves_the_child_empty_and_profiled() -> None:
    kept = make_small(100)
    with measured() as captured:
        kept += make_small(20_000)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                kept.clear()
                stats = _native.stats()
                code = 0 if stats["heap_blocks"] < 1000 else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert near(of(captured.rows, "make_small")[3], 8_000_000)


def test_mapped_memory_is_not_an_allocation_and_buffers_of_python_are() -> None:
    with measured() as captured:

        def hold() -> list[Any]:
            return [mmap.mmap(-1, 50_000_000), bytearray(30_000_000), bytes(20_000_000)]

        kept = hold()
    assert near(of(captured.rows, "hold")[3], 50_000_000, 0.01)
    del kept


class Allocator(ctypes.Structure):
    """PyMemAllocatorEx."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("ctx", "malloc", "calloc", "realloc", "free")]


def allocators() -> list[Allocator]:
    """What the three domains call now."""
    found = [Allocator() for _ in range(3)]
    for domain, allocator in enumerate(found):
        ctypes.pythonapi.PyMem_GetAllocator(domain, ctypes.byref(allocator))
    return found


def as_lists(found: list[Allocator]) -> list[list[int | None]]:
    return [[getattr(allocator, name) for name, _ in Allocator._fields_] for allocator in found]


def test_allocators_are_given_back() -> None:
    """What the domains call before and after is the same function."""
    before = as_lists(allocators())
    with measured():
        assert [entry[1] for entry in as_lists(allocators())] != [entry[1] for entry in before]
    assert as_lists(allocators()) == before


@pytest.mark.parametrize("domains", [(0, 1, 2), (2,)], ids=["all", "one"])
def test_hooks_that_somebody_puts_back_after_we_left(domains: tuple[int, ...]) -> None:
    """A tool that saves the allocators and restores them later. We must not call ourselves."""
    before = allocators()
    with measured():
        ours = allocators()
    try:
        for domain in domains:
            ctypes.pythonapi.PyMem_SetAllocator(domain, ctypes.byref(ours[domain]))
        make_small(1_000)
        with measured() as captured:
            kept = make_small(20_000)
        live = of(captured.rows, "make_small")[3]
        assert near(live, 8_000_000) if len(domains) == 3 else live == 0
        del kept
    finally:
        for domain in domains:
            ctypes.pythonapi.PyMem_SetAllocator(domain, ctypes.byref(before[domain]))
    assert as_lists(allocators()) == as_lists(before)
    with measured() as captured:
        kept = make_small(20_000)
    assert near(of(captured.rows, "make_small")[3], 8_000_000)
    del kept


PROGRAM = """
import gc, sys, threading, weakref
import conprof_core
from conprof_core.testing import MemoryExporter
from conprof_core import Profiler
exporter = MemoryExporter()
profiler = Profiler(profile_types="heap", heap_sample_bytes=2048, exporters=(exporter,))
rows = []
profiler.observe(rows.extend)
profiler.start()
class Late:
    def __del__(self):
        bytes(100_000); [object() for _ in range(10_000)]
kept = [bytes(367) for _ in range(20_000)]
def work():
    while True:
        [bytes(n) for n in range(2000)]
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
late = Late(); late.self = late
grown = [bytearray(100) for _ in range(20_000)]
for number, small in enumerate(grown):
    small.extend(bytes(250))
    if number % 2:
        small.clear(); small.extend(b"x")
del grown, small
stats = conprof_core.stats()["engine_stats"]
assert stats["heap_samples"] > 3000, stats
assert stats["heap_hooks_on_free"] == int(sys.argv[2]), stats
if "stop" in sys.argv:
    profiler.stop()
    main = [row for row in rows if row.frames[-1][0] == "<module>"]
    live = sum(row.inuse_bytes for row in main)
    assert abs(live - 8_000_000) < 1_500_000, live
print("done", flush=True)
"""


@pytest.mark.leaves_process
@pytest.mark.parametrize("allocator", ["pymalloc", "malloc", "debug", "malloc_debug", "mimalloc"])
@pytest.mark.parametrize("end", ["stop", "exit"])
def test_every_allocator_and_the_end_of_the_interpreter(allocator: str, end: str) -> None:
    if allocator == "mimalloc" and sys.version_info < (3, 13):
        pytest.skip("3.13 brings mimalloc")
    if os.environ.get("CONPROF_UNDER_SANITIZER"):
        pytest.skip("the sanitizer has the allocator")
    done = subprocess.run(
        # Only of pymalloc it is known that it frees large blocks, and only these, as RAW.
        [
            sys.executable,
            "-X",
            "faulthandler",
            "-c",
            PROGRAM,
            end,
            str(int(allocator != "pymalloc")),
        ],
        env=os.environ | {"PYTHONMALLOC": allocator},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "unknown value" in done.stderr or "unknown PYTHONMALLOC" in done.stderr:
        pytest.skip(f"this interpreter is built without {allocator}")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_many_threads_allocate_and_free_each_others_blocks() -> None:
    """The premise: the threads did exchange blocks, and many were sampled."""
    import queue

    exchange: queue.SimpleQueue[list[bytes] | None] = queue.SimpleQueue()
    freed = [0]

    def produce() -> None:
        for _ in range(150):
            exchange.put(make_small(50))

    def consume() -> None:
        while (batch := exchange.get()) is not None:
            freed[0] += len(batch)
            del batch

    with measured(heap_sample_bytes=1024) as captured:
        consumer = threading.Thread(target=consume)
        producers = [threading.Thread(target=produce) for _ in range(4)]
        for thread in (consumer, *producers):
            thread.start()
        for thread in producers:
            thread.join()
        exchange.put(None)
        consumer.join()
        samples = _native.stats()["heap_samples"]
    assert freed == [30_000]
    assert samples > 5_000
    # A few of the lists themselves: CPython keeps freed ones for later use.
    assert of(captured.rows, "make_small")[3] < 100_000


def test_unusable_means_are_refused() -> None:
    for mean in (0, 1 << 40):
        with pytest.raises(ValueError, match="the mean must be"):
            _native.start_heap(mean)
    with pytest.raises(RuntimeError, match="start"):
        _native.start_heap(1024)


def test_without_the_type_nothing_is_hooked() -> None:
    with capture() as captured:
        make_small(1000)
        assert _native.stats()["heap_samples"] == 0
    assert isinstance(captured, Captured)
    assert not any(row.alloc_bytes or row.inuse_bytes for row in captured.rows)
