"""The pure-Python engine: a thread looks at all threads ``rate_hz`` times a second.

It runs wherever ``sys._current_frames`` exists. Against the native engine: it needs the GIL for
each look, so a program of pure-Python threads is seen some 70 times a second whatever the rate; CPU
time is charged to the stack at the end of an interval; labels follow threads and asyncio tasks, but
not work that a copied context carries into another thread. Sums of CPU time are as exact as the
platform's clocks; see ``_clocks``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from conprof_core import _log, _threads, _tracking
from conprof_core._engine import EngineSettings, EngineUnavailable, EngineWindow, Part
from conprof_core._engine._clocks import Clocks, SharedClock, best_clocks
from conprof_core._engine._table import Table
from conprof_core._labels import context_var
from conprof_core._threads import Thread, Wake, new_rlock

if TYPE_CHECKING:
    from conprof_core._engine.traced import TracedMemory

__all__ = ["PortableEngine"]

_IDLE_LOOKS = 8
_IDLE_INTERVAL_S = 0.1
_IDLE_CPU_NS = 100_000
_JOIN_S = 0.1
_RETRY_S = 1.0

_MISSING = "no thread can be had behind the fork, so nothing is sampled; it is tried again"
_BACK = "threads could be had again: profiling goes on"


# The process, if any, that is the child of a fork without hooks: its interpreter believes that the
# parent's threads are there.
_stale_threads_of = 0


def _shares_its_allocator() -> bool:
    """Tell whether objects of this interpreter may be freed in another one.

    ``sys._current_frames`` makes objects of the frames of all interpreters, in the allocator of the
    caller; those of another interpreter are freed there, with its own, and that is fatal. Who has
    an allocator to itself (3.12 and newer, not the main one) is configured without daemon threads.
    """
    import _thread

    allowed = getattr(_thread, "daemon_threads_allowed", None)
    return allowed is None or bool(allowed())


class PortableEngine:
    """See ``Engine``. Two daemon threads: one samples, one ticks."""

    name = "portable"

    def __init__(self) -> None:
        if not hasattr(sys, "_current_frames"):
            raise EngineUnavailable("this Python has no sys._current_frames")
        self._looks = 0
        self._forking = False
        self._forked_running = False
        self._is_child = False
        self._is_missing = False
        self._is_back = False  # and nobody has said so yet
        self._retry_at = 0.0
        self._traced: TracedMemory | None = None
        self._reset()

    def _reset(self) -> None:
        self._lock = new_rlock()  # guards the table and the clocks; a signal handler may stop()
        self._sampler: Thread | None = None
        self._ticker: Thread | None = None
        self._sampler_wake = Wake()
        self._ticker_wake = Wake()
        self._table: Table | None = None
        self._clocks: Clocks | None = None
        self._running = False
        self._paused = False
        self._next_tick = 0.0

    def start(self, settings: EngineSettings, tick: Callable[[], float]) -> None:
        """Start both threads.

        Raises:
            RuntimeError: a thread cannot be started, or this is an isolated subinterpreter.
        """
        if self._running:
            return
        has_stale_threads = _stale_threads_of == os.getpid()
        if has_stale_threads and sys.version_info < (3, 13):
            # Where the frames of those threads are is written on their stacks, which libc has
            # given to others.
            raise RuntimeError("CPython knows nothing of the fork that made this process")
        if not _shares_its_allocator():
            raise RuntimeError("the frames of other interpreters must not be read in this one")
        self._settings = settings
        if settings.wall_rate_hz:
            _log.log(_log.ERROR, "wall", "wall time is not measured: this is the native engine's")
        if settings.heap_bytes:
            self._start_heap(settings)
        self._tick = tick
        self._paused = False
        _tracking.start(context_var)
        self._table = Table(settings.max_stacks)
        self._clocks = SharedClock() if has_stale_threads else best_clocks()
        self._next_tick = time.monotonic() + settings.period_s
        is_child, self._is_child = self._is_child, False
        if is_child:
            self._start_behind_fork()
            return
        try:
            self._start_threads()
        except RuntimeError:
            self.stop()
            raise

    def _start_heap(self, settings: EngineSettings) -> None:
        if not settings.heap_tracemalloc:
            _log.log(
                _log.ERROR,
                "heap",
                "allocations are not profiled: this is the native engine's; live memory can be "
                "had with CONPROF_HEAP_TRACEMALLOC=1, at a price",
            )
            return
        # Imported here: few want it.
        from conprof_core._engine.traced import TracedMemory

        self._traced = self._traced or TracedMemory()
        self._traced.start(settings.max_stacks)

    def _start_threads(self) -> None:
        self._running = True
        # Handed to the threads: one that comes to run only after it was ended must not take the
        # wake of its successor for its own.
        sampler_wake, ticker_wake = self._sampler_wake, self._ticker_wake = Wake(), Wake()
        previous = self._ticker
        ticker = Thread(lambda: self._run_ticker(ticker, ticker_wake, previous))
        sampler = Thread(lambda: self._run_sampler(sampler, sampler_wake))
        self._ticker, self._sampler = ticker, sampler
        try:
            ticker.start()
            sampler.start()
        except RuntimeError:
            self._ticker = self._sampler = None  # one that has begun ends
            ticker_wake.set()
            raise

    def _start_behind_fork(self) -> None:
        """Start the threads; where none can be had say so, and try again when labels change.

        Who forked cannot be told, and threads may come to be had again. Nothing is looked at
        meanwhile: what the process uses is charged at the next look.
        """
        self._is_missing = False
        self._retry()
        if self._is_missing:
            _log.log(_log.ERROR, "engine", "%s", _MISSING)

    def _retry(self) -> None:
        try:
            self._start_threads()
        except RuntimeError:
            self._is_missing = True
            self._retry_at = time.monotonic() + _RETRY_S
            _tracking.set_mend(self._mend)
        else:
            _tracking.set_mend(None)
            self._is_back, self._is_missing = self._is_missing, False

    def _mend(self) -> None:
        # May be called where a log handler holds its lock: the ticker says that it is back.
        if self._running and self._is_missing and time.monotonic() >= self._retry_at:
            self._retry()

    # The two threads ------------------------------------------------------------------------------

    def _run_sampler(self, thread: Thread, wake: Wake) -> None:
        idle = 0
        process_ns = 0
        phase = int.from_bytes(os.urandom(2), "big")
        while self._running and self._sampler is thread:
            # A little jitter keeps the looks from falling into step with a periodic program.
            phase = (phase * 75 + 74) % 65_537
            wait_s = (0.9 + 0.2 * phase / 65_537) / self._settings.rate_hz
            if idle >= _IDLE_LOOKS:
                wait_s = max(wait_s, _IDLE_INTERVAL_S)
            wake.wait(wait_s)
            if self._paused:
                wake.wait(3_600.0)
                continue
            before, process_ns = process_ns, time.process_time_ns()
            # Nobody ran: no need to look. What little there was is charged at the next look.
            if process_ns - before < _IDLE_CPU_NS and idle:
                idle = min(idle + 1, _IDLE_LOOKS)
                continue
            with _log.guard("sampler"):
                idle = 0 if self._look(thread) else idle + 1

    def _look(self, thread: Thread | None = None) -> int:
        """Charge what was used since the last look; returns how many threads had run."""
        with self._lock:
            table, clocks = self._table, self._clocks
            if table is None or clocks is None:
                return 0
            if thread is not None and thread is not self._sampler:
                return 0
            self._looks += 1
            seen = 0
            try:
                for ident, frame, cpu_ns in clocks.look():
                    seen += 1
                    table.add(frame, _tracking.current(ident), ident, cpu_ns)
                    del frame
            except OSError:
                # The interpreter knows a thread that the system does not, as when C code ended
                # a thread without telling Python. Its clock must not be asked for again.
                self._clocks = SharedClock()
            return seen

    def _run_ticker(self, thread: Thread, wake: Wake, previous: Thread | None) -> None:
        if previous is not None:
            previous.join(3_600.0)  # never two ticks at once
        if self._is_back:
            self._is_back = False
            _log.log(_log.ERROR, "engine", "%s", _BACK)
        while True:
            wake.wait(self._next_tick - time.monotonic())
            if not self._running or self._ticker is not thread:
                return
            self._next_tick = time.monotonic() + self._tick()

    # Called by the session ------------------------------------------------------------------------

    def wake(self) -> None:
        """Have ``tick()`` called as soon as possible."""
        self._ticker_wake.set()

    def pause(self) -> None:
        """Take no samples until ``resume()``."""
        self._look()
        self._paused = True

    def resume(self) -> None:
        """Sample again."""
        with self._lock:
            if self._clocks is not None:
                self._clocks.skip()
        self._paused = False
        self._sampler_wake.set()

    def set_rate(self, rate_hz: int) -> None:
        """Look so often from now on."""
        self._settings = self._settings._replace(rate_hz=rate_hz)
        self._sampler_wake.set()

    def trouble(self) -> str:
        """Return why it cannot go on: there is no such reason."""
        return ""

    def take_window(self, *, ends_period: bool = True, alive: bool = True) -> EngineWindow:
        """Swap windows; see ``Engine.take_window``."""
        del ends_period  # this engine knows no ages
        if self._running and not self._paused:
            self._look()
        with self._lock:
            table = self._table or Table(0)
            if self._clocks is not None and not self._paused:
                self._add_rest(table, self._clocks)
            now_ns = table.end_ns()
            self._table = Table(self._settings.max_stacks, now_ns) if self._running else None
        _tracking.keep_only(set(sys._current_frames()))
        traced = self._traced.rows() if alive and self._traced is not None else ()
        if self._traced is not None and not self._running:
            self._traced.stop()
            self._traced = None
        return table.close(traced, now_ns)

    def join(
        self,
        parts: Sequence[Part],
        *,
        start_ns: int,
        end_ns: int,
        max_label_sets: int = 0,
        threads: bool = True,
    ) -> EngineWindow:
        """Add windows up."""
        # Imported here: only readers want it.
        from conprof_core._engine.sums import join_rows

        return join_rows(
            parts,
            start_ns=start_ns,
            end_ns=end_ns,
            max_label_sets=max_label_sets,
            threads=threads,
        )

    def _add_rest(self, table: Table, clocks: Clocks) -> None:
        for name, cpu_ns in clocks.rest().items():
            samples = round(cpu_ns * self._settings.rate_hz / 1e9)
            table.add_synthetic(name, max(1, samples), cpu_ns)

    def stop(self) -> None:
        """Take no more samples; the last window stays until it is taken."""
        if not self._running and not self._forked_running:
            return
        self._forked_running = False
        if not self._paused:
            with _log.guard("sampler"):
                self._look()
        _log.each("stop", self._end_threads, lambda: _tracking.set_mend(None), _tracking.stop)

    def _end_threads(self) -> None:
        self._running = False
        _log.each("stop", self._sampler_wake.set, self._ticker_wake.set)

    def stats(self) -> dict[str, int]:
        """Return counters since ``start()``."""
        self._mend()
        return {
            "looks": self._looks,
            "own_cpu_ns": _threads.own_cpu_ns(),
            "threads_missing": int(self._is_missing),
        }

    # Fork -----------------------------------------------------------------------------------------

    def prefork(self) -> None:
        """End both threads; an upload under way is not waited for."""
        self._forking = True
        if not self._running:
            return  # or parked already, by another thread that forks
        self._forked_running = True
        _log.each("fork", self._end_threads)
        for thread in (self._sampler, self._ticker):
            if thread is not None and thread.ident != _threads.thread_ident():
                thread.join_os_thread(_JOIN_S)

    def postfork_parent(self) -> None:
        """Start the threads again; clocks and table are as they were."""
        self._forking = False
        if self._forked_running:
            self._forked_running = False
            self._start_behind_fork()

    def postfork_child(self) -> None:
        """Become stopped and empty: locks may be held by threads that are not here."""
        # Without the other hooks, the interpreter too believes that the parent's threads are here,
        # and their clocks must not be asked for.
        global _stale_threads_of
        _stale_threads_of = 0 if self._forking else os.getpid()
        self._forking = self._forked_running = self._is_missing = False
        self._is_child = True
        _tracking.set_mend(None)
        _threads.forget_after_fork()
        _tracking.forget_other_threads()
        self._looks = 0
        if self._traced is not None:
            self._traced.forget()
        self._reset()
