"""Two kinds of short-lived threads: one that ticks while the engine is off, one that runs errands.

Neither exists while there is nothing for it to do.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from conprof_core import _log
from conprof_core._threads import Thread, Wake, new_lock, thread_ident

__all__ = ["Errands", "Standby"]

_JOIN_S = 0.1
_MAX_ERRANDS = 64


class Standby:
    """Calls ``tick()`` while the engine, whose thread does so else, is off.

    The thread ends as soon as ``tick()`` says that nothing will ever be due.
    """

    def __init__(self, tick: Callable[[], float]) -> None:
        self._tick = tick
        self._wake = Wake()
        self._thread: Thread | None = None
        self._is_on = False

    def start(self) -> None:
        """Begin. Where no thread can be had nothing ticks, and a ``flush()`` sends what waits."""
        self._is_on = True
        self._wake = Wake()
        thread = Thread(lambda: self._run(thread, wake))
        wake = self._wake
        self._thread = thread
        try:
            thread.start()
        except RuntimeError:
            self._thread = None

    def _run(self, thread: Thread, wake: Wake) -> None:
        with _log.guard("standby"):
            while self._thread is thread:
                wait_s = self._tick()
                if wait_s == math.inf:
                    if self._thread is thread:
                        self._thread = None
                    return
                wake.wait(wait_s)

    def wake(self) -> None:
        """Have ``tick()`` called as soon as possible, on a new thread where the last has ended."""
        if self._thread is None and self._is_on:
            self.start()
        self._wake.set()

    def stop(self) -> None:
        """End the thread; an upload under way is not waited for."""
        self._is_on = False
        self._end_thread()

    def _end_thread(self) -> None:
        thread, self._thread = self._thread, None
        self._wake.set()
        if thread is not None and thread.ident != thread_ident():
            thread.join_os_thread(_JOIN_S)

    def prefork(self) -> None:
        """End the thread, so that the child starts alone."""
        self._end_thread()

    def postfork_parent(self) -> None:
        """Go on."""
        if self._is_on and self._thread is None:
            self.start()


class Errands:
    """Runs callables one after another, on a thread that lives while there are any.

    ``submit()`` takes no lock that it would have to wait for: a signal handler written in Python
    may call it wherever it interrupts.
    """

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], object]] = deque(maxlen=_MAX_ERRANDS)
        self._busy = new_lock()
        self._thread: Thread | None = None

    def submit(self, errand: Callable[[], object]) -> None:
        """Have it run soon; of more than ``_MAX_ERRANDS`` that wait, the oldest are forgotten.

        Raises:
            RuntimeError: no thread can be had.
        """
        self._waiting.append(errand)
        if self._busy.acquire(False):
            self._thread = thread = Thread(self._run)
            try:
                thread.start()
            except BaseException:
                self._waiting.clear()
                self._busy.release()
                raise

    def _run(self) -> None:
        while True:
            while self._waiting:
                with _log.guard("control"):
                    self._waiting.popleft()()
            self._busy.release()
            # Whoever came after the last look, and before the release, has left it to us.
            if not self._waiting or not self._busy.acquire(False):
                return

    def settle(self, timeout_s: float) -> None:
        """Wait until nothing is under way, or the time is up."""
        thread = self._thread
        if thread is not None and thread.ident != thread_ident():
            thread.join_os_thread(timeout_s)
