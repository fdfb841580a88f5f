"""Sending what waits in the queues of one loop: a destination that hangs delays no other.

With one destination all of it happens on the thread that ticks. With several, each upload that is
due has a thread of its own, which ends with it; one that is still under way is left alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from conprof_core import _log
from conprof_core._threads import Thread, new_lock
from conprof_core._turns import ShortTurns
from conprof_core.exporters.queue import ExportQueue

__all__ = ["Sending"]


class _Line:
    """A queue, and who sends from it: one thread at a time."""

    def __init__(self, queue: ExportQueue) -> None:
        self.queue = queue
        self._sending = new_lock()
        self._has_ended = False
        self.is_claimed = False  # by a thread that was started to send

    @property
    def is_busy(self) -> bool:
        """Whether somebody sends, or is about to."""
        return self.is_claimed or self._sending.locked()

    def send(self, timeout_s: float, until: float, *, force: bool = False) -> bool:
        """Send until something fails; with ``force`` after whoever sends now, and in any case."""
        wait_s = max(0.0, min(until - time.monotonic(), 86_400.0)) if force else 0.0
        if not self._sending.acquire(force, wait_s if force else -1):
            return False
        try:
            return self.queue.drain(timeout_s, until=until, force=force)
        finally:
            self._sending.release()
            if self._has_ended:
                self.close()

    def close(self) -> None:
        """Close the queue, unless a thread that was given up still sends: then it does so."""
        self._has_ended = True
        if self._sending.acquire(False):
            try:
                self.queue.close()
            finally:
                self._sending.release()


class Sending:
    """The lines of one loop. A forked child makes a new one, with new locks.

    Args:
        timeout_s: longest time of one upload.
        wake: has ``tick()`` called, when a retry was planned on another thread than the tick's.
    """

    def __init__(
        self, queues: Sequence[ExportQueue], timeout_s: float, wake: Callable[[], object]
    ) -> None:
        self._lines = tuple(_Line(queue) for queue in queues)
        self._timeout_s = timeout_s
        self._wake = wake

    def send_due(self, until: float) -> None:
        """Send what is due, and begin nothing after ``until``. From a tick."""
        if len(self._lines) == 1:
            self._lines[0].send(self._timeout_s, until)
            return
        now = time.monotonic()
        for line in self._lines:
            due = line.queue.next_due()
            is_due = due is not None and due <= now
            if not line.is_busy and (is_due or line.queue.has_spool):
                line.is_claimed = True
                send = partial(self._send_one, line, until)
                try:
                    Thread(send).start()
                except RuntimeError:
                    send()

    def _send_one(self, line: _Line, until: float) -> None:
        try:
            with _log.guard("send"), ShortTurns():
                line.send(self._timeout_s, until)
        finally:
            line.is_claimed = False
        if len(line.queue):
            self._wake()

    def next_due(self) -> float:
        """Return when there is something to send, in monotonic seconds; infinite for never."""
        due = [line.queue.next_due() for line in self._lines if not line.is_busy]
        return min((at for at in due if at is not None), default=float("inf"))

    def send_all(self, deadline: float) -> bool:
        """Send everything now, until ``deadline``; ``True`` when nothing is left."""
        results: list[bool] = []

        def send(line: _Line, until: float = deadline) -> None:
            with _log.guard("send"), ShortTurns():
                results.append(line.send(self._timeout_s, until, force=True))

        if not self._lines:
            return True
        first, *others = sorted(self._lines, key=_most_likely_first)
        helpers, left = [], [first]
        for line in others:
            helper = Thread(partial(send, line))
            try:
                helper.start()
                helpers.append(helper)
            except RuntimeError:
                left.append(line)
        # Where no thread can be had, as at the end of the interpreter, each gets its share.
        while left:
            now = time.monotonic()
            send(left[0], now + (deadline - now) / len(left))
            del left[0]
        for helper in helpers:
            helper.join(max(0.0, deadline - time.monotonic()))
        return len(results) == len(self._lines) and all(results)

    def close(self) -> None:
        """Close the queues; what is queued and not on disk is lost, and counted as dropped."""
        for line in self._lines:
            line.close()


def _most_likely_first(line: _Line) -> tuple[bool, bool]:
    exporter = line.queue.exporter
    return line.queue.has_failed, not getattr(exporter, "is_local", False)
