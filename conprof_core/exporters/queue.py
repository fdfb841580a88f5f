"""The queue before one exporter: bounded, in order, and calm while the destination is away.

An outage is one log line when it begins and one when it ends. In between windows are kept with
their original time stamps, up to ``MAX_QUEUED_WINDOWS``; then the oldest is dropped and counted.

With a spool they are written to disk as soon as an attempt has failed. What is on disk is always
older than what is in memory, and is sent first.
"""

from __future__ import annotations

import os
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from conprof_core import _log
from conprof_core._limits import MAX_QUEUED_BYTES, MAX_QUEUED_WINDOWS
from conprof_core.exporters import EncodedWindow, Exporter, Outcome, Verdict

if TYPE_CHECKING:
    from conprof_core.exporters.spool import Spool

__all__ = ["ExportQueue"]

BACKOFF_FIRST_S: Final = 2.0
BACKOFF_LONGEST_S: Final = 300.0
DROPPED: Final = "windows_dropped"
"""Key of ``EncodedWindow.counters``: windows lost before this one."""

MAX_FAILED_ANSWERS: Final = 3
"""Answers of the kind "I failed on this" after which a window is given up; see Outcome.counts."""


class ExportQueue:
    """Windows that wait for one exporter.

    ``submit()`` may be called by any thread at any time and never blocks. ``drain()`` is called by
    one thread at a time. A forked child makes a new queue: what the parent holds, the parent sends.
    """

    def __init__(self, exporter: Exporter, spool: Spool | None = None) -> None:
        self.exporter = exporter
        self.exported = 0
        self.refused = 0  # by the destination
        self.last_error = ""
        self._pending: deque[EncodedWindow] = deque()
        self._failures = 0  # attempts in a row
        self._failed_answers = 0  # of the window at the head
        self._retry_at = 0.0  # monotonic
        self._away_since: float | None = None
        self._dropped = 0  # from memory
        self._told = 0  # of the dropped, by windows that were submitted
        self._untold = 0  # of those, by windows that never arrived
        self._lost_before = 0  # when the last window was delivered
        self._refusal = ""
        self._spool = spool

    def __len__(self) -> int:
        return len(self._pending) + (len(self._spool) if self._spool is not None else 0)

    @property
    def dropped(self) -> int:
        """Windows given up because a bound was reached, or at the end."""
        return self._dropped + (self._spool.dropped if self._spool is not None else 0)

    def take_lost(self, elsewhere: int) -> int:
        """Return how many windows the next one has to tell as lost, and take that as told.

        What a window had to tell that was dropped itself is told again, so that what arrives tells
        of all that did not; but for windows dropped from a spool, whose content nobody reads.

        Args:
            elsewhere: windows lost before they came to any queue, so far.
        """
        lost = self.dropped + elsewhere + self._untold - self._told
        self._told += lost
        return lost

    @property
    def queued_bytes(self) -> int:
        """Bytes held in memory."""
        return sum(window.bytes for window in self._pending.copy())

    def submit(self, window: EncodedWindow) -> None:
        """Append a window; the oldest give way when the bound is reached."""
        self._pending.append(window)
        self._shrink()

    def _shrink(self) -> None:
        while len(self._pending) > MAX_QUEUED_WINDOWS or (
            self.queued_bytes > MAX_QUEUED_BYTES and len(self._pending) > 1
        ):
            try:
                window = self._pending.popleft()
            except IndexError:  # drain() took it in this instant
                return
            self._dropped += 1
            self._untold += window.counters.get(DROPPED, 0)

    def next_due(self) -> float | None:
        """Return when ``drain()`` has something to do, in monotonic seconds; ``None`` for never."""
        return self._retry_at if len(self) else None

    def drain(self, timeout_s: float, *, until: float = float("inf"), force: bool = False) -> bool:
        """Send what waits, oldest first, until something fails; ``True`` when nothing is left.

        Args:
            timeout_s: longest time for one window.
            until: monotonic time at which to stop.
            force: try now although a retry is planned for later, as ``stop()`` does.
        """
        spool = self._spool
        if spool is not None and not force:
            with _log.guard("spool"):
                spool.adopt()
        if force or self.has_failed:
            # Before the attempt: a process that is about to end may not see its outcome.
            self._spill()
        done = False
        if force or time.monotonic() >= self._retry_at:
            done = self._send(timeout_s, until)
        if not done and self.has_failed:
            self._spill()
        return not len(self)

    def _send(self, timeout_s: float, until: float) -> bool:
        """Send until something fails, time is up (``False``), or nothing is left."""
        while True:
            left = until - time.monotonic()
            if left <= 0:
                return False
            window = self._spool.oldest() if self._spool is not None else None
            on_disk = window is not None
            if window is None:
                try:
                    # Taken out while it is under way, so that submit() cannot drop it meanwhile.
                    window = self._pending.popleft()
                except IndexError:
                    return True
            if not self._attempt(window, min(timeout_s, left), on_disk=on_disk):
                return False

    def _spill(self) -> None:
        """Move what is in memory to disk, oldest first, as far as the disk takes it."""
        spool = self._spool
        while spool is not None and self._pending:
            try:
                window = self._pending.popleft()
            except IndexError:  # submit() dropped it in this instant
                return
            stored = False
            with _log.guard("spool"):
                stored = spool.put(window)
            if not stored:
                self._put_back(window)
                return

    def _attempt(self, window: EncodedWindow, timeout_s: float, *, on_disk: bool) -> bool:
        """Send one window; ``False`` when it is better to wait before the next attempt."""
        outcome = Outcome(Verdict.RETRY, "internal error in the exporter", counts=True)
        try:
            with _log.guard("export"):
                outcome = self.exporter.export(window, timeout_s)
        except BaseException:
            if not on_disk:
                self._put_back(window)
            raise
        if outcome.verdict is Verdict.RETRY and outcome.counts:
            self._failed_answers += 1
            if self._failed_answers >= MAX_FAILED_ANSWERS:
                why = f"{outcome.detail}, {MAX_FAILED_ANSWERS} times for one window"
                outcome = Outcome(Verdict.REFUSED, why)
        if outcome.detail:  # also of what was taken in part
            self.last_error = outcome.detail
        if outcome.verdict is Verdict.RETRY:
            if not on_disk:
                self._put_back(window)
            self._plan_retry(outcome)
            return False
        if on_disk and self._spool is not None:
            self._spool.remove()
        if outcome.verdict is Verdict.REFUSED:
            self._untold += window.counters.get(DROPPED, 0)
            self._refused(outcome.detail)
        else:
            self.exported += 1
            self._delivered()
        return True

    def _put_back(self, window: EncodedWindow) -> None:
        self._pending.appendleft(window)
        self._shrink()

    def _delivered(self) -> None:
        away_since = self._away_since
        if away_since is not None or self._refusal:
            lost = self.dropped + self.refused - self._lost_before
            _log.log(
                _log.ERROR,
                "export",
                "%s takes profiles again after %d s; %s",
                self.exporter.name,
                time.monotonic() - away_since if away_since is not None else 0,
                f"{lost} windows were dropped meanwhile" if lost else "nothing was lost",
            )
        self._away_since = None
        self._lost_before = self.dropped + self.refused
        self._refusal = ""
        self._failures = self._failed_answers = 0
        self._retry_at = 0.0

    def _refused(self, detail: str) -> None:
        """Count a window that will never be taken; say so once for each reason."""
        self.refused += 1
        self._failed_answers = 0
        if detail != self._refusal:
            self._refusal = detail
            _log.log(_log.ERROR, "export", "%s refuses profiles: %s", self.exporter.name, detail)

    def _plan_retry(self, outcome: Outcome) -> None:
        self._failures += 1
        longest = min(BACKOFF_LONGEST_S, BACKOFF_FIRST_S * 2.0 ** min(self._failures - 1, 16))
        # Jitter over the upper half: processes that lost the agent together come back apart.
        delay = longest * (0.5 + 0.5 * int.from_bytes(os.urandom(2), "big") / 65_536)
        if outcome.retry_after_s is not None:
            delay = min(max(delay, outcome.retry_after_s), BACKOFF_LONGEST_S)
        now = time.monotonic()
        self._retry_at = now + delay
        if self._away_since is None:
            self._away_since = now
            _log.log(
                _log.ERROR,
                "export",
                "%s does not take profiles: %s; keeping %s and trying again",
                self.exporter.name,
                outcome.detail,
                f"up to {MAX_QUEUED_WINDOWS} windows"
                if self._spool is None
                else f"windows in {self._spool.place}",
            )

    def stats(self) -> dict[str, object]:
        """Return counters for ``conprof.stats()``."""
        return {
            "exporter": self.exporter.name,
            "exported": self.exported,
            "queued": len(self),
            "queued_bytes": self.queued_bytes,
            "dropped": self.dropped,
            "refused": self.refused,
            "available": self._away_since is None,
            "last_error": self.last_error,
            **({} if self._spool is None else self._spool.stats()),
        }

    def close(self) -> None:
        """Give up what is queued, and count it; what a spool has or takes now is not lost."""
        if self._spool is not None:
            self._spill()
            with _log.guard("spool"):
                self._spool.close()
        self._dropped += len(self._pending)
        self._pending.clear()

    def forget(self) -> None:
        """In a forked child: what the parent holds is the parent's, on disk too."""
        self._pending.clear()
        if self._spool is not None:
            with _log.guard("spool"):
                self._spool.forget()

    @property
    def has_spool(self) -> bool:
        """Whether windows of processes that have ended may be found on disk at any time."""
        return self._spool is not None

    @property
    def has_failed(self) -> bool:
        """Whether the last attempt failed, so that another one now would most likely fail too."""
        return self._away_since is not None
