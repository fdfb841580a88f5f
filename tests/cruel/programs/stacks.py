"""Programs on stacks of a size of their choice."""

from __future__ import annotations

import ctypes
import os

from cruel.report import burn, say, spin

ROOMY = 1 << 20
WORK = ctypes.CFUNCTYPE(None)


def library() -> ctypes.CDLL:
    """Return the harness's library of threads."""
    return ctypes.CDLL(os.environ["CRUEL_LIBRARIES"] + "/stacks.so")


def _work() -> None:
    # Through C and back, so that the stack is as deep as it gets where most of the time goes.
    sorted([1, 2], key=lambda _: sorted([1], key=_deepest))
    say("worked")


def _deepest(item: int) -> int:
    rows = [{"id": number, "text": str(number) * 20} for number in range(3000)]
    spin(0.2)  # unlabelled: that would be a call more
    return len(rows)


def alternate(size: int, is_above: bool, tick_us: int = 0) -> None:
    """A thread with a signal stack so big, above or below its own."""
    error = library().cruel_on_stacks(ROOMY, size, is_above, tick_us, WORK(_work))
    say("thread", os.strerror(error) if error else "ended")
    burn(0.1)


def thread(size: int, tick_us: int = 0) -> None:
    """A thread with a stack so big."""
    error = library().cruel_on_stacks(size, 0, False, tick_us, WORK(_work))
    say("thread", os.strerror(error) if error else "ended")
    burn(0.1)


def native_threads(with_python: bool = False) -> None:
    """Threads that Python has not started; half of them call it, if wanted."""
    lib = library()
    lib.cruel_native_threads.argtypes = (ctypes.c_int, ctypes.c_double, ctypes.c_void_p)
    called: list[int] = []

    def work() -> None:
        called.append(1)
        burn(0.003)

    work_in_c = WORK(work)
    pointer = ctypes.cast(work_in_c, ctypes.c_void_p) if with_python else None
    for _ in range(6):
        error = lib.cruel_native_threads(16, 0.015, pointer)
        say("threads", error, len(called))
    burn(0.2)
