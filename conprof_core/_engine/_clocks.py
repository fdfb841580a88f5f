"""CPU time per thread, for the portable engine: what each thread used, or the best estimate.

Where a thread has a CPU clock that others may read (Linux, most BSDs) the figures are exact and a
blocked thread gets nothing. Elsewhere (macOS, Windows, PyPy without the call) the CPU time of the
process is shared among the threads that do not obviously wait; see ``SharedClock``.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterator
from itertools import chain, tee
from operator import call, itemgetter
from types import FrameType
from typing import Final, NamedTuple, Protocol

from conprof_core import _threads

__all__ = ["Clocks", "SharedClock", "ThreadClocks", "Used", "best_clocks"]

# Before 3.12 any allocation may collect, and a finalizer in Python hands over the GIL: a thread of
# the list could end before its clock is asked for. (Before 3.11.6 a collection inside
# sys._current_frames could also deadlock, python/cpython#106883.)
_OWN_PACKAGE: Final = __name__.partition(".")[0]
_PAUSE_GC: Final = sys.version_info < (3, 12)


class Used(NamedTuple):
    """CPU time of one thread since the look before."""

    ident: int
    frame: FrameType
    cpu_ns: int


class Clocks(Protocol):
    """CPU time used by the threads of this process, handed out once."""

    name: str

    def look(self) -> Iterator[Used]:
        """Yield each thread that used CPU time since the last look; threads of conprof are not.

        The frames are those of running threads: use them at once and let go of them.
        """
        ...

    def skip(self) -> None:
        """Forget the CPU time used since the last look, as at the end of a pause."""
        ...

    def rest(self) -> dict[str, int]:
        """Return synthetic frame → CPU nanoseconds of threads that no look has seen."""
        ...


def best_clocks() -> Clocks:
    """Return exact clocks where the platform has them."""
    if hasattr(time, "pthread_getcpuclockid"):
        try:
            return ThreadClocks()
        except OSError:  # see PortableEngine._look
            pass
    return SharedClock()


def _frame_outside() -> FrameType | None:
    """Return the innermost frame of the calling thread that is not conprof's, as in ``stop()``."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__")
        if not isinstance(name, str) or name.partition(".")[0] != _OWN_PACKAGE:
            break
        frame = frame.f_back
    return frame


def _read(clock: int) -> int | None:
    try:
        return time.clock_gettime_ns(clock)
    except OSError:  # the thread has ended
        return None


class ThreadClocks:
    """Exact: reads each thread's own CPU clock."""

    name = "CPU clock of each thread"

    def __init__(self) -> None:
        self._last: dict[int, int] = {}  # clock id → nanoseconds
        self._seen: set[int] = set()  # clock ids of this window
        self._native: dict[int, int] = {}
        self._charged_ns = 0
        self._process_ns = 0
        self.skip()

    def _snapshot(self) -> list[tuple[int, FrameType, int]]:
        """Return (ident, frame, clock id) of each thread that is not conprof's own.

        ``pthread_getcpuclockid`` on a thread that has ended is undefined behaviour. A thread that
        has a frame has not ended, and cannot while this thread holds the GIL. So everything from
        the list of frames to the last clock id happens inside one C call that runs no bytecode. A
        clock id may be read at any time: the kernel knows when its thread is gone.
        """
        caller, outside = _threads.thread_ident(), _frame_outside()
        if caller in _threads.own_idents or outside is None:
            caller = 0
        frames, same_frames = tee(
            chain.from_iterable(map(dict.items, map(call, (sys._current_frames,))))
        )
        clocks = map(time.pthread_getcpuclockid, map(itemgetter(0), same_frames))
        pairs = zip(frames, clocks, strict=True)
        collecting = _PAUSE_GC and gc.isenabled()
        if collecting:
            gc.disable()
        try:
            found = list(pairs)
        finally:
            if collecting:
                gc.enable()
        others = [
            (ident, frame, clock)
            for (ident, frame), clock in found
            if ident not in _threads.own_idents and ident != caller
        ]
        if outside is not None:
            others += [(caller, outside, clock) for (ident, _), clock in found if ident == caller]
        # The frame of this very call is in the list, and in what tee() still holds. Left there, it
        # would be part of a cycle, and with it the frames, and the objects, of every thread.
        del found, pairs, clocks, frames, same_frames
        return others

    def look(self) -> Iterator[Used]:
        snapshot = self._snapshot()
        last, self._last = self._last, {}
        while snapshot:
            ident, frame, clock = snapshot.pop()
            now = _read(clock)
            if now is None:
                continue
            self._last[clock] = now
            self._seen.add(clock)
            # A thread that is new since the last look is charged from its beginning.
            used = now - last.get(clock, 0)
            if used > 0:
                self._charged_ns += used
                yield Used(ident, frame, used)
            del frame
        # A thread may have no frame for a moment, as the main thread between the program's end and
        # the exit hooks. Forgotten, it would be charged from its beginning once more.
        for clock in last.keys() - self._last.keys():
            if _read(clock) is not None:
                self._last[clock] = last[clock]

    def skip(self) -> None:
        self._last = {
            clock: now for _, _, clock in self._snapshot() if (now := _read(clock)) is not None
        }
        self._seen = set(self._last)
        self._native = _native_clocks(self._seen)
        self._charged_ns = 0
        self._process_ns = time.process_time_ns() - _threads.own_cpu_ns()

    def rest(self) -> dict[str, int]:
        rest: dict[str, int] = {}
        # A thread that has left Python and not yet the system is no native thread: what it used
        # has been charged.
        before, self._native = self._native, _native_clocks(self._seen)
        self._seen = set(self._last)
        seen = 0
        for tid, now in self._native.items():
            used = now - before.get(tid, 0)
            if used > 0:
                name = f"[native thread {_thread_name(tid)}]"
                rest[name] = rest.get(name, 0) + used
                seen += used
        process = time.process_time_ns() - _threads.own_cpu_ns()
        short = process - self._process_ns - self._charged_ns - seen
        self._process_ns, self._charged_ns = process, 0
        # Below a millisecond it is the skew between clocks that were read one after the other; it
        # comes back, with either sign, in the next window.
        if short > 1_000_000:
            rest["[short threads]"] = short
        else:
            self._process_ns -= short
        return rest


def _native_clocks(known: set[int]) -> dict[int, int]:
    """Return thread id → CPU nanoseconds of threads without Python state, on Linux."""
    found: dict[int, int] = {}
    try:
        names = os.listdir("/proc/self/task")
    except OSError:
        return found
    for name in names:
        tid = int(name)
        clock = (~tid << 3) | 6  # CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED, as the C library does
        if clock not in known and tid not in _threads.own_native_ids:
            now = _read(clock)
            if now is not None:
                found[tid] = now
    return found


def _thread_name(tid: int) -> str:
    try:
        with open(f"/proc/self/task/{tid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "?"


_WAITS: Final = {
    "threading.py": {"wait", "join", "acquire", "_wait_for_tstate_lock"},
    "selectors.py": {"select"},
    "queue.py": {"get", "put"},
    "socket.py": {"accept", "readinto", "create_connection"},
    "ssl.py": {"read", "do_handshake"},
    "subprocess.py": {"_wait", "_try_wait", "_communicate"},
    "connection.py": {"_recv", "_recv_bytes", "_poll", "_exhaustive_wait"},
    "thread.py": {"_worker"},
    "windows_events.py": {"_poll"},
    "popen_fork.py": {"poll"},
}


def _obviously_waits(frame: FrameType) -> bool:
    """Whether the leaf is a function of the standard library that does nothing but block."""
    code = frame.f_code
    return code.co_name in _WAITS.get(os.path.basename(code.co_filename), ())


class SharedClock:
    """An estimate: shares the process's CPU time among the threads that seem to run.

    Those are threads whose position has changed since the last look; if there is none, those that
    do not obviously wait; if there is none again, the main thread. Totals are right, shares between
    threads that run at the same time are not exact, and a thread that computes inside one long C
    call beside another that moves is passed over.
    """

    name = "CPU clock of the process, shared"

    def __init__(self) -> None:
        self._positions: dict[int, tuple[int, int]] = {}
        self._process_ns = 0
        self.skip()

    def look(self) -> Iterator[Used]:
        process = time.process_time_ns() - _threads.own_cpu_ns()
        used, self._process_ns = process - self._process_ns, process
        caller, outside = _threads.thread_ident(), _frame_outside()
        frames = sys._current_frames()
        # The frame of this call must not stay in a variable of this call; see ThreadClocks.
        frames.pop(caller, None)
        for ident in _threads.own_idents.copy():
            frames.pop(ident, None)
        if caller not in _threads.own_idents and outside is not None:
            frames[caller] = outside
        before = self._positions
        self._positions = {
            ident: (id(frame.f_code), frame.f_lasti) for ident, frame in frames.items()
        }
        if used <= 0 or not frames:
            return
        awake = [ident for ident, frame in frames.items() if not _obviously_waits(frame)]
        moved = [ident for ident in awake if before.get(ident) != self._positions[ident]]
        running = moved or awake or list(frames)[:1]
        share = used // len(running)
        for ident in running:
            yield Used(ident, frames.pop(ident), share)

    def skip(self) -> None:
        self._process_ns = time.process_time_ns() - _threads.own_cpu_ns()

    def rest(self) -> dict[str, int]:
        return {}
