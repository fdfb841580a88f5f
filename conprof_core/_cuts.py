"""Windows cut within a period, for readers, and put together again for the uploads.

A reader's span begins and ends where it wants. So the engine's window is cut there, and each piece
goes to the window of the period and to every reader whose span it lies in. Nothing is sampled twice
or left out: what is uploaded, and what each reader gets, are sums of whole pieces. While there is
no reader nothing is cut.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from conprof_core import _log, _scope
from conprof_core._config import Config
from conprof_core._engine import Engine, EngineWindow, Part, Row
from conprof_core._limits import MAX_PIECES, MAX_READERS, MAX_TOTAL_LABEL_SETS
from conprof_core._options import ProfileType
from conprof_core._threads import new_lock

__all__ = ["ALLOCATED", "TURNED_OFF", "Cuts", "Reading", "Unreadable"]

_LOCK_WAIT_S: Final = 10.0
TURNED_OFF: Final = (
    "profiling is turned off: turn it on with reconfigure(enabled=True), or with the control file "
    "or signal that turned it off"
)
"""What readers are told meanwhile."""
ALLOCATED: Final = ("alloc_objects", "alloc_bytes")
_ALIVE: Final = ("inuse_objects", "inuse_bytes")
_FLOWS: Final = tuple(column for column in Row._fields[3:-1] if column not in _ALIVE)
"""What happens in a window, and adds up; what is alive at its end does not."""


class Unreadable(Exception):  # noqa: N818 - a state that the handler answers, not an error
    """Why nothing can be read now, and what to do about it."""


def _length_ns(window: EngineWindow) -> int:
    return window.end_ns - window.start_ns


class _Pieces:
    """Consecutive windows, of which at most ``MAX_PIECES`` are kept apart."""

    __slots__ = ("_engine", "_windows")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._windows: list[EngineWindow] = []

    def add(self, window: EngineWindow) -> None:
        if len(self._windows) >= MAX_PIECES:
            self._windows = [self.sum()]
        self._windows.append(window)

    def clear(self) -> None:
        self._windows = []

    def __bool__(self) -> bool:
        return bool(self._windows)

    def sum(self, *more: Part) -> EngineWindow:
        """Return one window with what happened in all of them, and what was alive at the end."""
        *earlier, last = self._windows
        if not earlier and not more:
            return last
        parts = [*(Part(window, _FLOWS) for window in earlier), Part(last), *more]
        # Not from the first to the last: the clock may have been set in between.
        start_ns = self._windows[0].start_ns
        return self._engine.join(
            parts, start_ns=start_ns, end_ns=start_ns + sum(map(_length_ns, self._windows))
        )


class Reading:
    """What one reader has asked for: the pieces from its begin to its end.

    ``Cuts.begin()`` and ``Cuts.end()`` make and take it; ``abandon()``, in any thread and at any
    time, ends it without a result.
    """

    __slots__ = ("before", "interruption", "is_abandoned", "pieces")

    def __init__(self) -> None:
        self.interruption = ""
        self.before: EngineWindow | None = None
        self.pieces: _Pieces | None = None
        self.is_abandoned = False


class Cuts:
    """All that takes windows from one engine. A forked child makes a new one.

    Args:
        engine: whose windows these are.
        sums_allocations: whether all allocations so far are added up, for ``heap()``.
    """

    def __init__(self, engine: Engine, *, sums_allocations: bool) -> None:
        self._engine = engine
        self._sums_allocations = sums_allocations
        self._kept = _Pieces(engine)
        self._readings: set[Reading] = set()
        self._allocated: EngineWindow | None = None
        self._is_ended = False
        self._why_not = ""  # nothing is measured now; written with the lock held
        # Held while a window is taken and handed on, so that no reader misses a piece.
        self.lock = new_lock()

    # Lock held: the turn of windows ---------------------------------------------------------------

    def take(self) -> EngineWindow:
        """Return the window of the period, which ends now."""
        taken = self._engine.take_window()
        self._hand_on(taken)
        if not self._kept:
            return taken
        self._kept.add(taken)
        whole = self._kept.sum()
        self._kept.clear()
        return whole

    def drop(self) -> None:
        """End a pause between two periods, which holds nothing for the uploads."""
        self._hand_on(self._engine.take_window())
        self._kept.clear()

    def interrupt(self, reason: str) -> None:
        """End all readings without a result: what they began with is no more. They say why."""
        for reading in tuple(self._readings):
            reading.interruption = reason
            self.abandon(reading)

    def use(self, engine: Engine) -> None:
        """Cut the windows of another engine from now on; sums of the old one's stay."""
        self._engine = engine
        self._kept = _Pieces(engine)

    def follow(self, config: Config, why_not: str) -> None:
        """Do as is measured from now on.

        The sum of allocations stays while profiling is off, so that it never decreases; it ends
        where memory is measured no longer.

        Args:
            config: what holds now.
            why_not: why nothing is measured, for readers; empty when something is.
        """
        self._why_not = why_not
        if ProfileType.HEAP not in config.profile_types:
            self._sums_allocations = False
            self._allocated = None
        elif config.pull:
            self._sums_allocations = True

    def _hand_on(self, window: EngineWindow) -> None:
        for reading in tuple(self._readings):
            if reading.pieces is not None and not reading.is_abandoned:
                try:
                    reading.pieces.add(window)
                except MemoryError:  # this reader's misfortune, not that of the uploads
                    reading.pieces = None
        if self._sums_allocations:
            with _log.guard("allocations"):
                total = self._allocated
                parts = [Part(window, ALLOCATED)]
                if total is not None:
                    parts.insert(0, Part(total, ALLOCATED))
                before = window if total is None else total
                self._allocated = self._engine.join(
                    parts,
                    start_ns=before.start_ns,
                    end_ns=before.end_ns + (0 if total is None else _length_ns(window)),
                    max_label_sets=MAX_TOTAL_LABEL_SETS,
                    threads=False,
                )

    def _cut(self, *, alive: bool) -> EngineWindow:
        self._check_running()
        if self._why_not:
            raise Unreadable(self._why_not)
        _scope.settle()
        window = self._engine.take_window(ends_period=False, alive=alive)
        self._hand_on(window)
        self._kept.add(window)
        return window

    # From readers, any thread ---------------------------------------------------------------------

    def begin(self, reading: Reading, *, alive: bool = False) -> None:
        """Let a reading begin now; ``alive``: it is of what is alive, too.

        Raises:
            Unreadable: too many are under way, or the profiler was stopped or turned off.
        """

        def begin() -> None:
            if len(self._readings) >= MAX_READERS:
                raise Unreadable(f"{MAX_READERS} profiles are being taken already; try again later")
            reading.before = self._cut(alive=alive)
            reading.pieces = _Pieces(self._engine)
            self._readings.add(reading)
            if reading.is_abandoned:  # meanwhile, by another thread
                self._readings.discard(reading)

        self._locked(begin)

    def end(self, reading: Reading, *, alive: bool = False) -> EngineWindow:
        """End a reading now and return its window.

        Of what is ``alive`` it tells the difference to its begin.

        Raises:
            Unreadable: the profiler was stopped, turned off or changed meanwhile.
        """

        def cut() -> None:
            if not reading.interruption:
                self._cut(alive=alive)

        try:
            self._locked(cut)
        finally:
            self.abandon(reading)
        if reading.interruption:
            raise Unreadable(reading.interruption)
        pieces, before = reading.pieces, reading.before
        if pieces is None or before is None:
            raise Unreadable("there is no memory for the profile")
        return pieces.sum(*((Part(before, (), _ALIVE),) if alive else ()))

    def abandon(self, reading: Reading) -> None:
        """End a reading without a result; harmless when it has ended."""
        # Without the lock: an event loop may not wait for it. Each step is atomic under the GIL.
        reading.is_abandoned = True
        self._readings.discard(reading)

    def heap(self) -> EngineWindow:
        """Return what is alive now, and all allocations since the session began.

        Its span is a moment: profiles with a duration are differences for those who scrape.

        Raises:
            Unreadable: the profiler was stopped or turned off.
        """
        found: list[tuple[EngineWindow, EngineWindow | None]] = []

        def look() -> None:
            self._sums_allocations = True  # from now on, in a session that did not expect readers
            found.append((self._cut(alive=True), self._allocated))

        self._locked(look)
        alive, allocated = found[0]
        parts = [Part(alive, _ALIVE)]
        if allocated is not None:
            parts.insert(0, Part(allocated, ALLOCATED))
        return self._engine.join(parts, start_ns=alive.end_ns, end_ns=alive.end_ns, threads=False)

    def _check_running(self) -> None:
        if self._is_ended:
            raise Unreadable("the profiler was stopped")

    def _locked(self, work: Callable[[], object]) -> None:
        self._check_running()  # in a forked child nobody may be left to give the lock back
        if not self.lock.acquire(True, _LOCK_WAIT_S):
            raise Unreadable("the profiler is busy; try again later")
        try:
            work()
        finally:
            self.lock.release()

    def shut_down(self) -> None:
        """The session has ended, or is another process's: readings end without a result."""
        self._is_ended = True
