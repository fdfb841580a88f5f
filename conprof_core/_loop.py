"""The turn of windows: take, encode, enqueue, send. All of it happens in ``tick()``.

An engine calls ``tick()`` from a background thread of its own, so nothing here owns a thread while
the process is idle. ``stop()`` and ``flush()`` come from the application's threads and send on a
helper thread that they abandon when the time is up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from conprof_core import _log, _scope
from conprof_core._config import Config
from conprof_core._cuts import TURNED_OFF, Cuts
from conprof_core._engine import Engine, Row
from conprof_core._options import ProfileType
from conprof_core._process import Process
from conprof_core._sending import Sending
from conprof_core._threads import Thread, own_cpu_ns
from conprof_core._turns import ShortTurns
from conprof_core._window import Window
from conprof_core.exporters import EncodedWindow, Exporter
from conprof_core.exporters.naming import Naming
from conprof_core.exporters.queue import DROPPED, ExportQueue

if TYPE_CHECKING:
    from conprof_core.exporters.spool import Spool

__all__ = ["Loop"]

_AFTER_ERROR_S = 5.0
_COLLECT_WAIT_S = 2.0
_SWITCH_WAIT_S = 5.0
_WAS_TURNED_OFF = "profiling was turned off while this was measured"
_CHANGED = "rate or types were changed while this was measured; ask again"


class Loop:
    """Windows and queues of one session in one process. A forked child makes a new one."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        exporters: Sequence[Exporter],
        process: Process,
        observer: Callable[[list[Row]], object] | None = None,
        poll: Callable[[], float] = lambda: math.inf,
        wake: Callable[[], object] = lambda: None,
    ) -> None:
        self._config = config
        self._engine = engine
        self._process = process
        self._observer = observer
        self._poll = poll
        self.queues = tuple(
            ExportQueue(exporter, self._spool_for(exporter)) for exporter in exporters
        )
        self.cuts = Cuts(engine, sums_allocations=False)
        self.cuts.follow(config, "" if config.enabled else TURNED_OFF)
        self._sending = Sending(self.queues, config.upload_timeout, wake)
        # Taking a window is short, sending may last, and has locks of its own. None is held across
        # a fork by this design: the child makes a new Loop and never touches those of the old one.
        # ``_config`` to ``_is_sampling`` are written with ``_collecting`` held.
        self._collecting = self.cuts.lock
        self._sequence = 0
        self._paused = False
        self._is_sampling = False
        self._next_turn = math.inf
        self._encoding_failed = 0
        self.samples = 0
        self.cpu_ns = 0
        self.counters: dict[str, int] = {}

    def _spool_for(self, exporter: Exporter) -> Spool | None:
        config = self._config
        if not config.spool_dir:
            return None
        from conprof_core.exporters.spool import Spool, place_of

        place = place_of(config.spool_dir, self._process.service, exporter.name)
        return Spool(place, config.spool_bytes)

    def use(self, engine: Engine) -> None:
        """Go on with another engine, within ``switch()``: the window of the old one is taken."""
        self._engine = engine
        self.cuts.use(engine)

    def begin(self) -> None:
        """Note that the first window begins now."""
        self._is_sampling = True
        self._next_turn = time.monotonic() + self._config.cpu_duration

    # On the engine's background thread -----------------------------------------------------------

    def tick(self) -> float:
        """Do what is due and return the seconds until something is due again. Never raises."""
        with _log.guard("tick"), ShortTurns():
            now = time.monotonic()
            if now >= self._next_turn:
                self._turn(now)
            poll_s = self._poll()
            # Begin nothing that would stretch the window: the last upload begun may still do so,
            # by one upload_timeout, where there is one destination only.
            self._sending.send_due(self._next_turn)
            return min(self._seconds_to_next(), poll_s)
        return _AFTER_ERROR_S

    def _turn(self, now: float) -> None:
        """End the window, or the pause that follows it when ``cpu_duration`` < ``period``."""
        if not self._collecting.acquire(True, _COLLECT_WAIT_S):
            return  # a flush is at it; the next tick comes at once
        try:
            if now >= self._next_turn:  # nobody has switched meanwhile
                self._turn_locked(now)
        finally:
            self._collecting.release()

    def _turn_locked(self, now: float) -> None:
        config = self._config
        pause = config.period - config.cpu_duration
        # From the planned time, so that windows do not drift; from now after a suspended machine.
        planned = self._next_turn if now - self._next_turn < config.period else now
        if self._paused:
            self._next_turn = planned + config.cpu_duration
            self.cuts.drop()
            _scope.take_requests()
            self._engine.resume()
            self._paused = False
            return
        self._next_turn = planned + (pause or config.period)
        if pause:
            self._engine.pause()
            self._paused = True
        self._enqueue(self._take(), self._namings())

    def collect(self, wait_s: float = _COLLECT_WAIT_S) -> bool:
        """Take the window, encode it once for each naming and enqueue it."""
        if not self._collecting.acquire(True, wait_s):
            return False
        try:
            if self._is_sampling:
                self._enqueue(self._take(), self._namings())
        finally:
            self._collecting.release()
        return True

    def _take(self) -> Window:
        _scope.settle()
        window = Window(
            self.cuts.take(),
            self._process,
            engine=self._engine.name,
            sequence=self._sequence,
            lost_windows=0,
            requests=_scope.take_requests(),
            tasks=self._tasks(),
        )
        self._sequence += 1
        self._account(window)
        return window

    def _namings(self) -> list[Naming]:
        return [queue.exporter.naming for queue in self.queues]

    def _enqueue(self, window: Window, namings: Sequence[Naming]) -> None:
        if self._observer is not None:
            self._observer(window.rows())
        try:
            # What is lost is each destination's own; where nothing is, one encoding serves all of
            # a family.
            encoded: dict[tuple[Naming, int], EncodedWindow] = {}
            for queue, naming in zip(self.queues, namings, strict=True):
                lost = queue.take_lost(self._encoding_failed)
                if (naming, lost) not in encoded:
                    encoded[naming, lost] = window.with_lost(lost).encode(naming)
                queue.submit(encoded[naming, lost])
        except Exception:
            self._encoding_failed += 1
            raise

    def switch(self, config: Config, halt: Callable[[], object], go: Callable[[], bool]) -> bool:
        """End the window and go on with another configuration; ``False`` when too busy for it.

        Queues, sequence and counters stay. The window is encoded when the engine runs again.
        Readings end without a result, unless rate and types stay as they are.

        Args:
            halt: stops the engine where that is needed; the window can be taken afterwards.
            go: brings the engine into its new state; whether it samples now.
        """
        if not self._collecting.acquire(True, _SWITCH_WAIT_S):
            return False
        try:
            if not config.enabled:
                self.cuts.interrupt(_WAS_TURNED_OFF)
            elif (config.measured, config.engine) != (self._config.measured, self._config.engine):
                self.cuts.interrupt(_CHANGED)
            halt()
            window = None
            if self._paused:
                self.cuts.drop()
            elif self._is_sampling:
                window = self._take()
            else:
                _scope.take_requests()  # of requests that outlasted the measuring
            namings = self._namings()
            was_paused, self._paused = self._paused, False
            self._config = config
            for queue in self.queues:
                measure = getattr(queue.exporter, "measure", None)
                if measure is not None:
                    measure(config.measured)
            self._is_sampling = go()
            self.cuts.follow(config, "" if self._is_sampling else TURNED_OFF)
            if self._is_sampling and was_paused:
                self._engine.resume()
            self._next_turn = math.inf
            if self._is_sampling:
                self._next_turn = time.monotonic() + config.cpu_duration
            if window is not None:
                self._enqueue(window, namings)
        finally:
            self._collecting.release()
        return True

    def _tasks(self) -> list[Row]:
        """Rows of a snapshot; none when it fails, and the window goes without."""
        if ProfileType.TASKS not in self._config.profile_types:
            return []
        if not self.queues and self._observer is None:
            return []  # nobody gets them: who pulls takes a snapshot of its own
        with _log.guard("tasks"):
            # Imported here: without the profile type nobody needs it.
            from conprof_core._engine.tasks import snapshot

            return snapshot(use_extension=self._engine.name == "native").rows()
        return []

    def _account(self, window: Window) -> None:
        self.samples += window.samples
        self.cpu_ns += window.cpu_ns
        for reason, count in window.counters().items():
            self.counters[reason] = self.counters.get(reason, 0) + count

    @property
    def lost_windows(self) -> int:
        """Windows that reached no destination because a queue was full or encoding failed."""
        return self._encoding_failed + sum(queue.dropped for queue in self.queues)

    def _seconds_to_next(self) -> float:
        return max(0.0, min(self._next_turn, self._sending.next_due()) - time.monotonic())

    # From the application ------------------------------------------------------------------------

    def flush(self, timeout_s: float) -> bool:
        """Close the window now and send what waits; ``True`` when all of it was delivered.

        Returns after ``timeout_s`` at the latest, even if a destination hangs.
        """
        deadline = time.monotonic() + timeout_s
        collected = False
        with _log.guard("flush"), ShortTurns():
            collected = self.collect(max(0.0, timeout_s))
        return self.send(deadline - time.monotonic()) and collected

    def send(self, timeout_s: float) -> bool:
        """Send what waits within ``timeout_s``, on a helper thread where one can be had."""
        deadline = time.monotonic() + timeout_s
        done: list[bool] = []

        def send() -> None:
            with _log.guard("send"), ShortTurns():
                done.append(self._sending.send_all(deadline))

        helper = Thread(send)
        try:
            helper.start()
        except RuntimeError:
            # Interpreter shutdown, from 3.12 on: send here. Exporters keep to the time they are
            # given, except while a host name is resolved.
            send()
        else:
            helper.join(timeout_s)
        return bool(done and done[0])

    def terminate(self, timeout_s: float) -> None:
        """Send the last window from an engine's thread, when SIGTERM ends the process."""
        deadline = time.monotonic() + timeout_s
        with _log.guard("terminate"), ShortTurns():
            self.collect(timeout_s / 2)
            self._sending.send_all(deadline)

    def shutdown(self) -> None:
        """Release the exporters; what is queued and not on disk is lost, and counted as dropped."""
        self.cuts.shut_down()
        self._sending.close()
        for queue in self.queues:
            with _log.guard("shutdown"):
                queue.exporter.shutdown()

    def forget(self) -> None:
        """In a forked child, which makes a loop of its own."""
        self.cuts.shut_down()
        for queue in self.queues:
            queue.forget()

    def stats(self) -> dict[str, object]:
        """Return counters for ``conprof.stats()``."""
        lost = self.lost_windows
        return {
            "windows": self._sequence,
            "samples": self.samples,
            "cpu_ns": self.cpu_ns,
            "lost": {**self.counters, **({DROPPED: lost} if lost else {})},
            "lost_windows": lost,
            "exported": sum(queue.exported for queue in self.queues),
            "queued": sum(len(queue) for queue in self.queues),
            "dropped": sum(queue.dropped for queue in self.queues),
            "refused": sum(queue.refused for queue in self.queues),
            "last_error": next((q.last_error for q in self.queues if q.last_error), ""),
            "exporters": [queue.stats() for queue in self.queues],
            "own_threads_cpu_ns": own_cpu_ns(),
        }
