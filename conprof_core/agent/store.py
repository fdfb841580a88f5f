"""The data directory: its lock, its files, retention. The writer and the queries meet here.

A file is ``segments/<day>-<part>.duckdb``; the day is that of the windows in it, in UTC. All files
are attached to one in-memory DuckDB instance, so memory limit and buffer pool are shared.
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import duckdb

from conprof_core.agent import limits
from conprof_core.agent.errors import StoreUnavailableError, UploadRefusedError
from conprof_core.agent.intake import Upload
from conprof_core.agent.lock import DirectoryLock
from conprof_core.agent.segment import Segment
from conprof_core.agent.tables import Tables

__all__ = ["DAY_S", "Store"]

DAY_S: Final = 86_400
_FILE: Final = re.compile(r"(\d{4}-\d\d-\d\d)-(\d{3})\.duckdb")
# Stack nodes that stay in memory between queries, 12 bytes each; of files that are written to each
# counts ten times, for the index. Two files stay in any case: at midnight there are two writers.
_NODES_KEPT: Final = 16_000_000
_INDEXED: Final = 10
# Rows of answers about whole files that are kept, some 100 bytes each.
_ROWS_KEPT: Final = 300_000


def _weight(key: tuple[object, ...], rows: list[tuple[Any, ...]]) -> int:
    """Return what an answer takes in memory, in rows: some of its question is as large."""
    return 1 + len(rows) + sum(len(part) for part in key if isinstance(part, str)) // 100


class Store:
    """Owns one data directory.

    Thread-safe for readers; ``write`` and ``retain`` are for one thread, the writer's.

    Attributes:
        keep_days: windows older than this are deleted.
        max_bytes: above this, the oldest files are deleted; the newest file always stays.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep_days: int = 30,
        max_bytes: int = 10 << 30,
        threads: int = 2,
        memory_limit: str = "1GB",
    ) -> None:
        """Open or create the directory.

        Raises:
            DirectoryInUseError: another agent has it.
            StoreUnavailableError: it cannot be written, or a file has another schema.
        """
        self.directory = directory
        self.keep_days = keep_days
        self.max_bytes = max_bytes
        try:
            (directory / "segments").mkdir(parents=True, exist_ok=True, mode=0o700)
            self.lock = DirectoryLock(directory)
        except OSError as error:
            raise StoreUnavailableError(f"{directory} cannot be used: {error.strerror}") from None
        try:
            self.connection = duckdb.connect(
                ":memory:",
                config={
                    "threads": threads,
                    "memory_limit": memory_limit,
                    "wal_autocheckpoint": "64MB",
                    "autoinstall_known_extensions": False,
                    "autoload_known_extensions": False,
                },
            )
            self._lock = threading.Lock()
            self._segments: dict[tuple[int, int], Segment] = {}
            self._loaded: OrderedDict[str, int] = OrderedDict()
            self._digests: OrderedDict[str, None] = OrderedDict()
            self._answers: OrderedDict[tuple[object, ...], list[tuple[Any, ...]]] = OrderedDict()
            self._answers_size = 0
            self._open_all()
        except BaseException:
            self.lock.release()
            raise

    def _open_all(self) -> None:
        for path in sorted((self.directory / "segments").glob("*.duckdb")):
            found = _FILE.fullmatch(path.name)
            if found is None:
                continue
            day = int(datetime.fromisoformat(found[1] + "+00:00").timestamp()) // DAY_S
            key = (day, int(found[2]))
            try:
                self._segments[key] = Segment(self.connection, path, *key)
            except duckdb.Error as error:
                raise StoreUnavailableError(f"{path} cannot be opened: {error}") from None
        for segment in self.segments()[-2:]:
            for digest in segment.digests(self.connection, limits.DIGESTS_REMEMBERED):
                self._remember(digest)

    def segments(self, from_s: float = 0, to_s: float = 1e15) -> list[Segment]:
        """Return the files that may hold windows of a range, oldest first."""
        with self._lock:
            return [
                segment
                for (day, _), segment in sorted(self._segments.items())
                if (day + 1) * DAY_S > from_s and day * DAY_S < to_s
            ]

    def tables(self, segment: Segment) -> Tables:
        """Return the tables of a file, making room among those used least recently."""
        tables = segment.tables(self.connection)
        with self._lock:
            self._loaded[segment.alias] = len(tables.node_parent) * (
                _INDEXED if tables.is_indexed else 1
            )
            self._loaded.move_to_end(segment.alias)
            surplus = []
            while len(self._loaded) > 2 and sum(self._loaded.values()) > _NODES_KEPT:
                surplus.append(self._loaded.popitem(last=False)[0])
            forgotten = [s for s in self._segments.values() if s.alias in surplus]
        for other in forgotten:
            other.make_room()
        return tables

    def label_tables(self, segment: Segment) -> Tables:
        """Return the tables of a file, of which functions and nodes may be missing."""
        return segment.label_tables(self.connection)

    def rows(
        self, segment: Segment, sql: str, parameters: Sequence[str] = (), *, keep: bool = False
    ) -> list[tuple[Any, ...]]:
        """Return the rows of a query on one file.

        With ``keep`` they are remembered until the file is written to: for a file that a range
        holds as a whole, which is most of a month, the same question comes with every look.
        """
        if not keep:
            return self.connection.cursor().execute(sql, parameters).fetchall()
        key = (segment.alias, segment.windows, sql, *parameters)
        with self._lock:
            known = self._answers.get(key)
            if known is not None:
                self._answers.move_to_end(key)
                return known
        found = self.connection.cursor().execute(sql, parameters).fetchall()
        with self._lock:
            if key in self._answers:
                return found  # another query was as quick
            self._answers[key] = found
            self._answers_size += _weight(key, found)
            while self._answers_size > _ROWS_KEPT and len(self._answers) > 1:
                self._answers_size -= _weight(*self._answers.popitem(last=False))
        return found

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(segment.size for segment in self.segments())

    def check(self, upload: Upload, now_s: float) -> None:
        """Refuse what retention would delete at once.

        Raises:
            UploadRefusedError: the window is older than what is kept.
        """
        if upload.middle_s < now_s - self.keep_days * DAY_S:
            raise UploadRefusedError(
                f"the window is older than the {self.keep_days} days kept", 422
            )

    def write(self, uploads: Sequence[Upload]) -> list[Exception | None]:
        """Store uploads durably; one entry for each, ``None`` when it is stored or was before."""
        outcome: list[Exception | None] = [None] * len(uploads)
        by_segment: dict[Segment, list[int]] = {}
        fresh: set[str] = set()
        for index, upload in enumerate(uploads):
            digest = upload.digest.hex()
            if digest in self._digests or digest in fresh:
                continue
            fresh.add(digest)
            try:
                by_segment.setdefault(self._segment_for(upload), []).append(index)
            except (duckdb.Error, OSError, StoreUnavailableError) as error:
                outcome[index] = StoreUnavailableError(f"the store cannot be written: {error}")
        for segment, indexes in by_segment.items():
            try:
                segment.write(self.connection, [uploads[index] for index in indexes])
            except (duckdb.Error, OSError) as error:
                for index in indexes:
                    outcome[index] = StoreUnavailableError(f"the store cannot be written: {error}")
                continue
            for index in indexes:
                self._remember(uploads[index].digest.hex())
        # A repetition inside the batch shares the fate of the first.
        first: dict[str, int] = {}
        for index, upload in enumerate(uploads):
            original = first.setdefault(upload.digest.hex(), index)
            outcome[index] = outcome[original]
        return outcome

    def _remember(self, digest: str) -> None:
        self._digests[digest] = None
        while len(self._digests) > limits.DIGESTS_REMEMBERED:
            self._digests.popitem(last=False)

    def _segment_for(self, upload: Upload) -> Segment:
        day = upload.middle_s // DAY_S
        with self._lock:
            parts = sorted(part for other, part in self._segments if other == day)
            newest = self._segments[day, parts[-1]] if parts else None
        if newest is not None:
            enough = self.max_bytes // limits.SEGMENTS_WITHIN_SIZE
            if newest.size < enough and not self.tables(newest).is_full:
                return newest
            newest.checkpoint(self.connection)
        part = newest.part + 1 if newest is not None else 1
        name = f"{datetime.fromtimestamp(day * DAY_S, UTC):%Y-%m-%d}-{part:03d}.duckdb"
        segment = Segment(self.connection, self.directory / "segments" / name, day, part)
        with self._lock:
            self._segments[day, part] = segment
        return segment

    def retain(self, now_s: float | None = None) -> list[Path]:
        """Delete what is too old, then the oldest files above the size; return what went."""
        oldest_day = (
            int((time.time() if now_s is None else now_s) - self.keep_days * DAY_S) // DAY_S
        )
        segments = self.segments()
        doomed = [segment for segment in segments if segment.day < oldest_day]
        kept = [segment for segment in segments if segment.day >= oldest_day]
        total = sum(segment.size for segment in kept)
        while len(kept) > 1 and total > self.max_bytes:
            total -= kept[0].size
            doomed.append(kept.pop(0))
        for segment in doomed:
            with self._lock:
                self._segments.pop((segment.day, segment.part), None)
                self._loaded.pop(segment.alias, None)
            segment.delete(self.connection)
        return [segment.path for segment in doomed]

    def close(self) -> None:
        """Write everything into the files and give the directory up."""
        for segment in self.segments():
            try:
                segment.checkpoint(self.connection)
            except duckdb.Error:
                pass  # the write-ahead log stays and is replayed at the next start
        self.connection.close()
        self.lock.release()
