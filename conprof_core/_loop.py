"""The turn of windows: take, encode, enqueue, send. All of it happens in ``tick()``.

An engine calls ``tick()`` from a background thread of its own, so nothing here owns a thread while
the process is idle. ``stop()`` and ``flush()`` come from the application's threads and send on a
helper thread that they abandon when the time is up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from conprof_core import _log, _scope
from conprof_core._config import Config
from conprof_core._cuts import Cuts
from conprof_core._engine import Engine, Row
from conprof_core._options import ProfileType
from conprof_core._process import Process
from conprof_core._threads import Thread, new_lock, own_cpu_ns
from conprof_core._turns import ShortTurns
from conprof_core._window import Window
from conprof_core.exporters import EncodedWindow, Exporter
from conprof_core.exporters.naming import Naming
from conprof_core.exporters.queue import ExportQueue

if TYPE_CHECKING:
    from conprof_core.exporters.spool import Spool

__all__ = ["Loop"]

_AFTER_ERROR_S = 5.0
_COLLECT_WAIT_S = 2.0


class Loop:
    """Windows and queues of one session in one process. A forked child makes a new one."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        exporters: Sequence[Exporter],
        process: Process,
        observer: Callable[[list[Row]], object] | None = None,
    ) -> None:
        self._config = config
        self._engine = engine
        self._process = process
        self._observer = observer
        self.queues = tuple(
            ExportQueue(exporter, self._spool_for(exporter)) for exporter in exporters
        )
        # Two locks: taking a window is short, sending may last. Neither is held across a fork by
        # this design: the child makes a new Loop and never touches the locks of the old one.
        self.cuts = Cuts(
            engine,
            sums_allocations=config.pull and ProfileType.HEAP in config.profile_types,
        )
        self._collecting = self.cuts.lock
        self._sending = new_lock()
        self._sequence = 0
        self._paused = False
        self._ended = False
        self._next_turn = 0.0
        self._reported_lost = 0
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

    def begin(self) -> None:
        """Note that the first window begins now."""
        self._next_turn = time.monotonic() + self._config.cpu_duration

    # On the engine's background thread -----------------------------------------------------------

    def tick(self) -> float:
        """Do what is due and return the seconds until something is due again. Never raises."""
        with _log.guard("tick"), ShortTurns():
            now = time.monotonic()
            if now >= self._next_turn:
                self._turn(now)
            self._send_due()
            return self._seconds_to_next()
        return _AFTER_ERROR_S

    def _turn(self, now: float) -> None:
        """End the window, or the pause that follows it when ``cpu_duration`` < ``period``."""
        config = self._config
        pause = config.period - config.cpu_duration
        # From the planned time, so that windows do not drift; from now after a suspended machine.
        planned = self._next_turn if now - self._next_turn < config.period else now
        if self._paused:
            self._next_turn = planned + config.cpu_duration
            with self._collecting:
                self.cuts.drop()
            _scope.take_requests()
            self._engine.resume()
            self._paused = False
            return
        self._next_turn = planned + (pause or config.period)
        if pause:
            self._engine.pause()
            self._paused = True
        self.collect()

    def collect(self, wait_s: float = _COLLECT_WAIT_S) -> bool:
        """Take the window, encode it once for each naming and enqueue it."""
        if not self._collecting.acquire(True, wait_s):
            return False
        try:
            lost = self.lost_windows
            _scope.settle()
            window = Window(
                self.cuts.take(),
                self._process,
                engine=self._engine.name,
                sequence=self._sequence,
                lost_windows=lost - self._reported_lost,
                requests=_scope.take_requests(),
                tasks=self._tasks(),
            )
            self._sequence += 1
            self._reported_lost = lost
            self._account(window)
            if self._observer is not None:
                self._observer(window.rows())
            try:
                encoded: dict[Naming, EncodedWindow] = {}
                for queue in self.queues:
                    naming = queue.exporter.naming
                    if naming not in encoded:
                        encoded[naming] = window.encode(naming)
                    queue.submit(encoded[naming])
            except Exception:
                self._encoding_failed += 1
                raise
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

    def _send_due(self) -> None:
        if not self._sending.acquire(False):
            return  # a flush is sending
        try:
            for queue in self.queues:
                # Stop in time for the next turn: a slow destination must not stretch windows. The
                # last upload begun may still do so, by one upload_timeout.
                queue.drain(self._config.upload_timeout, until=self._next_turn)
        finally:
            self._sending.release()

    def _seconds_to_next(self) -> float:
        due = [self._next_turn]
        due += [retry for queue in self.queues if (retry := queue.next_due()) is not None]
        return max(0.0, min(due) - time.monotonic())

    # From the application ------------------------------------------------------------------------

    def flush(self, timeout_s: float) -> bool:
        """Close the window now and send what waits; ``True`` when all of it was delivered.

        Returns after ``timeout_s`` at the latest, even if a destination hangs.
        """
        deadline = time.monotonic() + timeout_s
        collected = False
        with _log.guard("flush"), ShortTurns():
            collected = self.collect(timeout_s)
        return self.send(deadline - time.monotonic()) and collected

    def send(self, timeout_s: float) -> bool:
        """Send what waits within ``timeout_s``, on a helper thread where one can be had."""
        deadline = time.monotonic() + timeout_s
        done: list[bool] = []

        def send() -> None:
            with _log.guard("send"), ShortTurns():
                done.append(self._send_all(deadline))

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

    def _send_all(self, deadline: float) -> bool:
        if not self._sending.acquire(True, max(0.0, deadline - time.monotonic())):
            return False
        try:
            results = [
                queue.drain(self._config.upload_timeout, until=deadline, force=True)
                for queue in self.queues
            ]
            return all(results)
        finally:
            self._sending.release()
            if self._ended:
                self._close_queues()

    def terminate(self, timeout_s: float) -> None:
        """Send the last window from an engine's thread, when SIGTERM ends the process."""
        deadline = time.monotonic() + timeout_s
        with _log.guard("terminate"), ShortTurns():
            self.collect(timeout_s / 2)
            self._send_all(deadline)

    def shutdown(self) -> None:
        """Release the exporters; what is queued and not on disk is lost, and counted as dropped."""
        self._ended = True
        self.cuts.shut_down()
        self._close_queues()
        for queue in self.queues:
            with _log.guard("shutdown"):
                queue.exporter.shutdown()

    def _close_queues(self) -> None:
        """Close the queues, unless a thread that was given up still sends: then it does so."""
        if self._sending.acquire(False):
            try:
                for queue in self.queues:
                    queue.close()
            finally:
                self._sending.release()

    def forget(self) -> None:
        """In a forked child, which makes a loop of its own."""
        self.cuts.shut_down()
        for queue in self.queues:
            queue.forget()

    def stats(self) -> dict[str, object]:
        """Return counters for ``conprof.stats()``."""
        return {
            "windows": self._sequence,
            "samples": self.samples,
            "cpu_ns": self.cpu_ns,
            "lost": dict(self.counters),
            "lost_windows": self.lost_windows,
            "exported": sum(queue.exported for queue in self.queues),
            "queued": sum(len(queue) for queue in self.queues),
            "dropped": sum(queue.dropped for queue in self.queues),
            "refused": sum(queue.refused for queue in self.queues),
            "last_error": next((q.last_error for q in self.queues if q.last_error), ""),
            "exporters": [queue.stats() for queue in self.queues],
            "own_threads_cpu_ns": own_cpu_ns(),
        }
