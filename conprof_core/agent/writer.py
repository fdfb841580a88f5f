"""The one thread that writes: journal first, then answer, then the store.

Uploads that wait together share one flush of the journal to disk, after which they are answered.
The store gets them in transactions of many, a moment later or as soon as somebody asks: what was
acknowledged survives, and a query sees all of it.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from concurrent.futures import Future
from typing import Final, NamedTuple

import duckdb

from conprof_core.agent import limits
from conprof_core.agent.errors import StoreUnavailableError, UploadRefusedError
from conprof_core.agent.intake import Upload, parse
from conprof_core.agent.journal import Journal, Received
from conprof_core.agent.store import Store

__all__ = ["Writer"]

_RETENTION_EVERY_S: Final = 60.0
_COMMIT_AFTER_S: Final = 0.5
_RETRY_AFTER_S: Final = 5.0
_log = logging.getLogger("conprof.agent")


class _Item(NamedTuple):
    """An upload to be stored, or without one the wish to have everything stored."""

    upload: Upload | None
    received: Received | None
    future: Future[None]


class Writer:
    """Thread-safe: any thread may ``submit`` and ``flush``."""

    def __init__(self, store: Store) -> None:
        """Take over what an agent that crashed had acknowledged, then begin.

        Raises:
            StoreUnavailableError: the journal cannot be opened.
        """
        self._store = store
        path = store.directory / "journal"
        try:
            self._journal = Journal(path)
            pending = self._replay()
        except OSError as error:
            raise StoreUnavailableError(f"{path} cannot be used: {error.strerror}") from None
        self._queue: queue.Queue[_Item | None] = queue.Queue(limits.UPLOADS_WAITING)
        self.commits = 0
        self.stored = 0
        self.lost = 0
        # Owned by the writing thread; others only ask whether it is empty.
        self._pending = pending
        self._commit_at = 0.0
        self._thread = threading.Thread(target=self._run, name="conprof-agent-writer", daemon=True)
        self._thread.start()

    def submit(self, upload: Upload, received: Received) -> Future[None]:
        """Return a future; it ends when the upload is durable, or ``StoreUnavailableError``."""
        future: Future[None] = Future()
        try:
            self._queue.put_nowait(_Item(upload, received, future))
        except queue.Full:
            future.set_exception(
                StoreUnavailableError("more uploads than the disk takes; try again")
            )
        return future

    @property
    def has_pending(self) -> bool:
        """Whether something acknowledged is not in the store yet."""
        return bool(self._pending)

    def flush(self) -> Future[None]:
        """Return a future; it ends when the store has all that was acknowledged before, or not.

        A store that cannot be written answers queries all the same, without the latest uploads.
        """
        future: Future[None] = Future()
        self._queue.put(_Item(None, None, future))
        return future

    def close(self) -> None:
        """Write what is queued, then end."""
        self._queue.put(None)
        self._thread.join()
        self._journal.close()

    # On the writing thread ------------------------------------------------------------------------

    def _replay(self) -> list[Upload]:
        uploads: list[Upload] = []
        for content_type, body, arrived_s in self._journal.replay():
            try:
                upload = parse(content_type, body, arrived_s)
                self._store.check(upload, time.time())
            except UploadRefusedError:
                continue  # older than what is kept, by now
            uploads.append(upload)
        return uploads

    def _run(self) -> None:
        next_retention = time.monotonic()
        is_last = False
        while not is_last:
            batch, is_last = self._gather(next_retention)
            asked = [item.future for item in batch if item.upload is None]
            self._accept([item for item in batch if item.upload is not None])
            now = time.monotonic()
            is_due = len(self._pending) >= limits.UPLOADS_IN_COMMIT or now >= self._commit_at
            if self._pending and (is_due or asked or is_last):
                self._commit()
            for future in asked:
                future.set_result(None)
            if now >= next_retention:
                next_retention = now + _RETENTION_EVERY_S
                self._retain()

    def _gather(self, until: float) -> tuple[list[_Item], bool]:
        """Wait for the first item or the next duty, then take what else is there."""
        if self._pending:
            until = min(until, self._commit_at)
        batch: list[_Item] = []
        wait_s = max(0.0, until - time.monotonic())
        while len(batch) < limits.UPLOADS_IN_COMMIT:
            try:
                item = self._queue.get(timeout=wait_s) if wait_s else self._queue.get_nowait()
            except queue.Empty:
                break
            if item is None:
                return batch, True
            batch.append(item)
            wait_s = 0.0
        return batch, False

    def _accept(self, batch: list[_Item]) -> None:
        if not batch:
            return
        failure: StoreUnavailableError | None = None
        if len(self._pending) + len(batch) > limits.UPLOADS_PENDING:
            failure = StoreUnavailableError("the store cannot be written; try again")
        else:
            try:
                self._journal.append([item.received for item in batch if item.received])
            except OSError as error:
                failure = StoreUnavailableError(f"the journal cannot be written: {error.strerror}")
        if failure is not None:
            _log.error("%s", failure)
            for item in batch:
                item.future.set_exception(failure)
            return
        if not self._pending:
            self._commit_at = time.monotonic() + _COMMIT_AFTER_S
        self._pending += [item.upload for item in batch if item.upload]
        for item in batch:
            item.future.set_result(None)

    def _commit(self) -> None:
        """Bring the store up to date; what it does not take now is tried again later."""
        uploads, lost_before = self._pending, self.lost
        try:
            outcome = self._store.write(uploads)
        except Exception:  # the thread must live, whatever one upload holds
            _log.exception("%d uploads could not be stored together", len(uploads))
            outcome = [self._write_alone(upload) for upload in uploads]
        self.commits += 1
        failures = [failure for failure in outcome if failure is not None]
        self.stored += len(uploads) - len(failures) - (self.lost - lost_before)
        if failures:
            _log.error("%s; trying again in %.0f s", failures[0], _RETRY_AFTER_S)
            self._commit_at = time.monotonic() + _RETRY_AFTER_S
        else:
            try:
                self._journal.clear()
            except OSError as error:
                _log.error("the journal cannot be cleared: %s", error)
        self._pending = [
            upload for upload, failure in zip(uploads, outcome, strict=True) if failure is not None
        ]

    def _write_alone(self, upload: Upload) -> Exception | None:
        try:
            return self._store.write([upload])[0]
        except Exception:
            _log.exception("an upload is lost: the store cannot take it")
            self.lost += 1
            return None

    def _retain(self) -> None:
        try:
            for path in self._store.retain():
                _log.info("retention deleted %s", path.name)
        except (duckdb.Error, OSError) as error:
            _log.error("retention failed: %s", error)
