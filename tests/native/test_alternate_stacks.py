"""Samples taken on alternate signal stacks, within this process: the sanitizers run these too."""

from __future__ import annotations

import asyncio
import ctypes
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from conprof_core.testing import Captured, capture

pytestmark = [
    pytest.mark.native_core,
    pytest.mark.skipif(sys.platform != "linux", reason="sigaltstack and mmap of Linux"),
]

SIZE = 64 << 10
STEP = 1 << 20
READ_WRITE, PRIVATE_ANONYMOUS, AT_A_FREE_PLACE = 3, 0x22, 0x100000
FAILED = ctypes.c_void_p(-1).value


class Stack(ctypes.Structure):
    _fields_ = (
        ("address", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("size", ctypes.c_size_t),
    )


@pytest.fixture(scope="module")
def libc() -> ctypes.CDLL:
    """The C library, with what is called here."""
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [
        *(ctypes.c_void_p, ctypes.c_size_t),
        *([ctypes.c_int] * 3),
        ctypes.c_long,
    ]
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return library


def mapping(libc: ctypes.CDLL, here: int, step: int) -> int:
    """Return fresh memory at the first free place that many bytes from here, or twice that, ..."""
    flags = PRIVATE_ANONYMOUS | AT_A_FREE_PLACE
    for at in range((here & ~0xFFF) + step, (here & ~0xFFF) + 4000 * step, step):
        found = libc.mmap(at, SIZE, READ_WRITE, flags, -1, 0)
        if found == at:
            return int(found)
        if found != FAILED:
            libc.munmap(found, SIZE)
    pytest.skip("no free place for a signal stack there")


def burn(cpu_s: float) -> None:
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(100))


def in_generators(cpu_s: float) -> None:
    def numbers(depth: int) -> Iterator[int]:
        if depth:
            yield from numbers(depth - 1)
        else:
            burn(cpu_s)
            yield 1

    list(numbers(20))


def in_tasks(cpu_s: float) -> None:
    async def awaits(depth: int) -> None:
        if depth:
            await awaits(depth - 1)
        else:
            burn(cpu_s)

    asyncio.run(awaits(20))


def in_depths(cpu_s: float, depth: int = 300) -> None:
    if depth:
        return in_depths(cpu_s, depth - 1)
    burn(cpu_s)
    return None


@pytest.mark.parametrize("work", [in_generators, in_tasks, in_depths])
@pytest.mark.parametrize("where", ["above", "below"])
def test_whole_stacks(where: str, work: Callable[[float], None], libc: ctypes.CDLL) -> None:
    """Wherever the signal stack lies, beside the thread's stack, samples have all their frames."""
    touched = []

    def run() -> None:
        here = threading.get_ident()  # of pthread_self(), which lies at the top of its stack
        at = mapping(libc, here, STEP if where == "above" else -STEP)
        assert (at > here) == (where == "above")
        before = Stack()
        assert libc.sigaltstack(ctypes.byref(Stack(at, 0, SIZE)), ctypes.byref(before)) == 0
        try:
            work(0.3)
        finally:
            # A sanitizer's run-time unmaps, at the end of a thread, what is set then.
            assert libc.sigaltstack(ctypes.byref(before), None) == 0
        touched.append(any(ctypes.string_at(at, SIZE)))
        libc.munmap(at, SIZE)

    with capture(cpu_profile_rate=1000) as captured:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert touched == [True]  # the premise: handlers ran there
    assert _whole_ns(captured, work.__name__) > 0.25e9


def _whole_ns(captured: Captured, name: str) -> int:
    """CPU time of stacks that go from the burning to the root of the thread."""
    return sum(
        row.cpu_ns
        for row in captured.rows
        if {"burn", name, "_bootstrap"} <= {frame[0].rpartition(".")[2] for frame in row.frames}
    )
