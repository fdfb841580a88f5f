"""Large buffers: whose bytes the heap profile sees, and whose not. The table of docs/heap.md."""

from __future__ import annotations

import array
import io
import mmap
import os
from collections.abc import Callable
from typing import Any

import pytest

from conprof_core.testing import capture

pytestmark = pytest.mark.native_core

SIZE = 8_000_000


def of_bytes() -> object:
    return bytes(SIZE)


def of_bytearray() -> object:
    return bytearray(SIZE)


def of_bytearray_that_grew() -> object:
    grown = bytearray()
    for _ in range(8):
        grown += b"x" * (SIZE // 8)
    return grown


def of_str() -> object:
    return "x" * SIZE


def of_list() -> object:
    return [None] * (SIZE // 8)


def of_array() -> object:
    return array.array("B", b"x") * SIZE


def of_bytes_io() -> object:
    stream = io.BytesIO()
    stream.write(b"x" * SIZE)
    return stream


def of_memoryview() -> object:
    return memoryview(bytes(SIZE))


def of_mmap() -> object:
    return mmap.mmap(-1, SIZE)


def alive(make: Callable[[], object]) -> int:
    """Return live bytes with ``make`` on the stack, with its result held."""
    with capture(profile_types="heap", heap_sample_bytes=4096) as captured:
        kept = make()
    total = sum(
        row.inuse_bytes
        for row in captured.rows
        if any(frame[0].endswith(make.__name__) for frame in row.frames)
    )
    del kept
    return total


SEEN = [
    of_bytes,
    of_bytearray,
    of_bytearray_that_grew,
    of_str,
    of_list,
    of_array,
    of_bytes_io,
    of_memoryview,
]


@pytest.mark.parametrize("make", SEEN)
def test_storage_of_pythons_own_types_is_seen(make: Callable[[], object]) -> None:
    assert alive(make) == pytest.approx(SIZE, rel=0.15)


def test_mapped_memory_is_not() -> None:
    assert alive(of_mmap) < SIZE / 100


@pytest.fixture(scope="module")
def numpy() -> Any:
    if "CONPROF_UNDER_SANITIZER" in os.environ:
        pytest.skip("what NumPy itself does is not the matter of the sanitizers")
    return pytest.importorskip("numpy")


def test_arrays_of_numpy_are_seen_since_it_asks_python(numpy: Any) -> None:
    """Before 2.5 it asked malloc, and told only tracemalloc of it."""
    import tracemalloc

    def of_ones() -> object:
        return numpy.ones(SIZE // 8)

    def of_copy() -> object:
        return numpy.frombuffer(bytes(SIZE), dtype="uint8").copy()

    version = tuple(int(part) for part in numpy.__version__.split(".")[:2])
    seen = SIZE if version >= (2, 5) else 0
    assert alive(of_ones) == pytest.approx(seen, abs=SIZE / 100)
    assert alive(of_copy) == pytest.approx(seen, abs=SIZE / 100)
    tracemalloc.start()
    kept = of_ones()
    traced = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert traced > SIZE, "the premise: it was told"
    del kept


def test_arrays_over_pythons_memory_and_their_objects_are(numpy: Any) -> None:
    def of_view() -> object:
        return numpy.frombuffer(bytearray(SIZE), dtype="uint8")

    def of_objects() -> object:
        """Pointers are NumPy's, the objects that they name Python's."""
        return numpy.array([bytes(1_000) for _ in range(SIZE // 1_000)], dtype=object)

    assert alive(of_view) == pytest.approx(SIZE, rel=0.15)
    assert alive(of_objects) == pytest.approx(SIZE, rel=0.15)
