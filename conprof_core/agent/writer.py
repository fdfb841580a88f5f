"""The one thread that writes: takes what has gathered, commits it together, then answers all of it.

Under load a commit carries many uploads, so its disk flush is shared; an idle agent commits each
upload at once. An upload is answered only after its commit: what was acknowledged survives.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

import duckdb

from conprof_core.agent import limits
from conprof_core.agent.errors import StoreUnavailableError
from conprof_core.agent.intake import Upload
from conprof_core.agent.store import Store

__all__ = ["Writer"]

_RETENTION_EVERY_S: Final = 60.0
_log = logging.getLogger("conprof.agent")


class Writer:
    """Thread-safe: any thread may ``submit``."""

    def __init__(self, store: Store, on_commit: Callable[[int], None] | None = None) -> None:
        self._store = store
        self._queue: queue.Queue[tuple[Upload, Future[None]] | None] = queue.Queue(
            limits.UPLOADS_WAITING
        )
        self._on_commit = on_commit
        self.commits = 0
        self.stored = 0
        self._thread = threading.Thread(target=self._run, name="conprof-agent-writer", daemon=True)
        self._thread.start()

    def submit(self, upload: Upload) -> Future[None]:
        """Return a future; it ends when the upload is durable, or ``StoreUnavailableError``."""
        future: Future[None] = Future()
        try:
            self._queue.put_nowait((upload, future))
        except queue.Full:
            future.set_exception(
                StoreUnavailableError("more uploads than the disk takes; try again")
            )
        return future

    def close(self) -> None:
        """Write what is queued, then end."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        next_retention = time.monotonic()
        while True:
            batch: list[tuple[Upload, Future[None]]] = []
            is_last = False
            wait_s = _RETENTION_EVERY_S
            while len(batch) < limits.UPLOADS_IN_COMMIT:
                try:
                    item = self._queue.get(timeout=wait_s) if wait_s else self._queue.get_nowait()
                except queue.Empty:
                    break
                if item is None:
                    is_last = True
                    break
                batch.append(item)
                wait_s = 0.0
            if batch:
                self._commit(batch)
            if is_last:
                return
            if time.monotonic() >= next_retention:
                next_retention = time.monotonic() + _RETENTION_EVERY_S
                self._retain()

    def _commit(self, batch: list[tuple[Upload, Future[None]]]) -> None:
        try:
            outcome = self._store.write([upload for upload, _ in batch])
        except Exception as error:  # the thread must live, whatever one batch holds
            _log.exception("a batch of %d uploads could not be stored", len(batch))
            outcome = [StoreUnavailableError(f"internal error: {type(error).__name__}")] * len(
                batch
            )
        self.commits += 1
        for (_, future), failure in zip(batch, outcome, strict=True):
            if failure is None:
                self.stored += 1
                future.set_result(None)
            else:
                _log.error("%s", failure)
                future.set_exception(failure)
        if self._on_commit is not None:
            self._on_commit(len(batch))

    def _retain(self) -> None:
        try:
            for path in self._store.retain():
                _log.info("retention deleted %s", path.name)
        except (duckdb.Error, OSError) as error:
            _log.error("retention failed: %s", error)
