"""Threads, locks and wake-ups that gevent cannot replace, for the few threads conprof owns.

In a monkey-patched process the public names give greenlets, which would never run while the hub is
busy; here the originals are used. ``own_idents`` lets the portable engine leave these threads out.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

__all__ = [
    "Lock",
    "Thread",
    "Wake",
    "forget_after_fork",
    "new_lock",
    "new_rlock",
    "own_cpu_ns",
    "own_idents",
    "own_native_ids",
    "sleep",
    "thread_ident",
]

own_idents: set[int] = set()
"""Idents of the running threads that belong to conprof."""

own_native_ids: set[int] = set()
"""The same by the operating system's ids."""

# What our threads must not take: all that does not report a fault of the thread itself.
_FAULTS = {"SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP"}
_blockable = (
    {number for number in signal.valid_signals() if getattr(number, "name", "") not in _FAULTS}
    if hasattr(signal, "pthread_sigmask")
    else set()
)

_own_clocks: dict[int, int] = {}  # ident → clock id, where threads have clocks
_cpu_of_ended_ns = 0


class Lock(Protocol):
    """The part of a lock used here."""

    def acquire(self, blocking: bool = ..., timeout: float = ...) -> bool: ...
    def release(self) -> None: ...
    def locked(self) -> bool: ...
    def __enter__(self) -> bool: ...
    def __exit__(self, *exc: object) -> None: ...


def original(module: str, name: str) -> Any:
    """Return what gevent has replaced, or the thing itself."""
    # The attribute is missing while another thread is still importing gevent.monkey.
    get_original = getattr(sys.modules.get("gevent.monkey"), "get_original", None)
    if get_original is not None:
        return get_original(module, name)
    return getattr(import_module(module), name)


def new_lock() -> Lock:
    """Return an unlocked lock that blocks the thread, not the greenlet."""
    lock: Lock = original("_thread", "allocate_lock")()
    return lock


def new_rlock() -> Lock:
    """Like ``new_lock``, re-entrant: for what a signal handler may enter a second time."""
    lock: Lock = original("_thread", "RLock")()
    return lock


def thread_ident() -> int:
    """Return the ident of the calling thread, also where gevent makes it that of a greenlet."""
    ident: int = original("_thread", "get_ident")()
    return ident


def sleep(seconds: float) -> None:
    """Block the calling thread."""
    original("time", "sleep")(seconds)


def own_cpu_ns() -> int:
    """Return the CPU time used so far by threads of conprof, in nanoseconds.

    Where threads have no clocks of their own, only those that have ended are counted.
    """
    total = _cpu_of_ended_ns
    for clock in tuple(_own_clocks.values()):
        try:
            total += time.clock_gettime_ns(clock)
        except OSError:  # ended in this instant
            pass
    return total


def forget_after_fork() -> None:
    """In a forked child: the threads of the parent are not here."""
    global _cpu_of_ended_ns
    own_idents.clear()
    own_native_ids.clear()
    _own_clocks.clear()
    _cpu_of_ended_ns = 0


class Wake:
    """A flag that one thread waits for and others set; waiting clears it.

    Built on one lock, held while the flag is down. ``set()`` takes no lock and is safe in a signal
    handler written in Python.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = new_lock()
        self._lock.acquire()

    def set(self) -> None:
        """Raise the flag; harmless when it is up."""
        try:
            self._lock.release()
        except RuntimeError:
            pass

    def wait(self, timeout_s: float) -> bool:
        """Wait until the flag is up, then lower it; ``False`` when the time ran out."""
        return self._lock.acquire(True, max(0.0, min(timeout_s, 86_400.0)))


def _nothing() -> None:
    pass


class _SignalsBlocked:
    """Blocks the signals of the program in this thread; a thread that starts meanwhile keeps that.

    A signal for the process goes to any thread that lets it in. One of ours must not be it: a
    program that blocks a signal in all of its own, to take it by ``sigwait``, would die of it, and
    a handler in C would run on a stack that it does not expect. Signals that report a fault of the
    thread itself are let in, for faulthandler.
    """

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        if _blockable:
            self._before = signal.pthread_sigmask(signal.SIG_BLOCK, _blockable)

    def __exit__(self, *_: object) -> None:
        if _blockable:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._before)


class Thread:
    """A daemon OS thread that runs ``target`` once. ``target`` must not raise."""

    __slots__ = ("_done", "_native_id", "_target", "ident")

    def __init__(self, target: Callable[[], None]) -> None:
        self._target = target
        self._done = new_lock()
        self._native_id = 0
        self.ident = 0

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: no thread can be started, as while the interpreter shuts down.
        """
        begin = original("_thread", "start_new_thread")
        with _SignalsBlocked():
            self._done.acquire()
            try:
                begin(self._run, ())
            except BaseException:
                self._done.release()
                raise

    def _run(self) -> None:
        global _cpu_of_ended_ns
        import _thread

        self.ident = ident = thread_ident()
        self._native_id = getattr(_thread, "get_native_id", int)()
        own_idents.add(ident)
        own_native_ids.add(self._native_id)
        if hasattr(time, "pthread_getcpuclockid"):
            _own_clocks[ident] = time.pthread_getcpuclockid(ident)
        # Let go of what the target knows: a thread that waits for its predecessor knows that one.
        target, self._target = self._target, _nothing
        try:
            target()
        finally:
            _own_clocks.pop(ident, None)
            try:
                _cpu_of_ended_ns += time.thread_time_ns()
            except (AttributeError, OSError):  # no such clock, or none in this sandbox
                pass
            own_idents.discard(ident)
            own_native_ids.discard(self._native_id)
            self._done.release()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of ``target``; ``False`` when the time ran out."""
        if not self._done.acquire(True, max(0.0, timeout_s)):
            return False
        self._done.release()
        return True

    def join_os_thread(self, timeout_s: float) -> bool:
        """Wait until the operating system has forgotten the thread too, where it can be asked.

        ``os.fork`` warns, from 3.12 on, as long as the kernel counts a second thread.
        """
        deadline = time.monotonic() + timeout_s
        if not self.join(timeout_s):
            return False
        task = f"/proc/self/task/{self._native_id}"
        while self._native_id and os.path.exists(task):
            if time.monotonic() > deadline:
                return False
            sleep(0.0001)
        return True
