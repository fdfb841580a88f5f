"""What a program under test says of itself: events in a file that was open before all hardships."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

_descriptor = -1
started_with: dict[str, Any] = {}
"""Options that the profiler was started with."""
_label: Callable[..., contextlib.AbstractContextManager[object]] | None = None


def open_at(descriptor: int) -> None:
    """Write to this descriptor from now on."""
    global _descriptor
    _descriptor = descriptor


def event(what: str, **facts: Any) -> None:
    """Report; the time at which it was is that of the last change of the file."""
    line = json.dumps({"what": what, "pid": os.getpid(), **facts}) + "\n"
    os.write(_descriptor, line.encode())


def label_with(labels: Callable[..., contextlib.AbstractContextManager[object]]) -> None:
    """Let ``burn`` label what it does."""
    global _label
    _label = labels


def say(*words: object) -> None:
    """Print what must be the same with the profiler and without."""
    print(*words, flush=True)


def process_cpu() -> int:
    """Return the CPU time of the process."""
    return time.clock_gettime_ns(time.CLOCK_PROCESS_CPUTIME_ID)


def ends() -> None:
    """Report the end of the program's own work."""
    conprof = sys.modules.get("conprof_core")
    stats = conprof.stats() if conprof else {}
    own = stats.get("engine_stats", {}).get("own_cpu_ns", 0)
    event("ends", cpu=process_cpu(), own=own, stats=stats if conprof else None)


def _thread_cpu() -> int:
    try:
        return time.thread_time_ns()
    except OSError:  # the sandbox refuses this clock
        return 0


def burn(seconds: float) -> None:
    """Use so much CPU time in this thread, under the label part=burn."""
    with _label(part="burn") if _label else contextlib.nullcontext():
        began = _thread_cpu()
        spin(seconds)
        event("burnt", ns=_thread_cpu() - began)


def spin(seconds: float) -> None:
    """Use so much CPU time in this thread."""
    clock = time.thread_time_ns if _thread_cpu() else time.perf_counter_ns
    end = clock() + int(seconds * 1e9)
    while clock() < end:
        for item in _count(300):
            str(item)


def _count(items: int) -> Iterator[int]:
    """Be a generator, whose frames are not where others are."""
    yield from range(items)


def timed(what: str, call: Callable[[], T]) -> T:
    """Call, and report how long it took."""
    began = time.perf_counter()
    try:
        return call()
    finally:
        event("took", of=what, s=round(time.perf_counter() - began, 4))


def in_child(status: int, is_profiled: bool = True, seconds: float = 0.05) -> None:
    """Be the child of a fork: do something and leave through the interpreter's door.

    Args:
        status: to leave with.
        is_profiled: whether there must be a profile of it, if the parent is profiled.
        seconds: of CPU.
    """
    say("child")
    if is_profiled and "conprof_core" in sys.modules:
        event("expects")
    burn(seconds)
    sys.stdout.flush()
    sys.exit(status)
