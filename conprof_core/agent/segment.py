"""One file of the store: the windows of one day, or of a part of it, with tables of their own.

A file holds everything it needs, so retention deletes files: the space is free at once, and no
table grows for longer than a day. Sample rows are one table for each profile type, so that a CPU
query never reads the bytes of a heap profile.
"""

from __future__ import annotations

import json
import os
import threading
import time
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import duckdb

from conprof_core.agent.errors import StoreUnavailableError
from conprof_core.agent.intake import Labels, Upload
from conprof_core.agent.names import ProfileType
from conprof_core.agent.tables import Tables

__all__ = ["SCHEMA_VERSION", "Segment"]

SCHEMA_VERSION: Final = 1

_SCHEMA: Final = """
CREATE TABLE {a}.meta(key VARCHAR, value VARCHAR);
CREATE TABLE {a}.types(id INTEGER, name VARCHAR, unit VARCHAR, original VARCHAR, instant INTEGER);
CREATE TABLE {a}.functions(id INTEGER, name VARCHAR, file VARCHAR);
CREATE TABLE {a}.nodes(id INTEGER, parent INTEGER, function INTEGER, line INTEGER);
CREATE TABLE {a}.label_sets(id INTEGER, labels VARCHAR);
CREATE TABLE {a}.series(id INTEGER, service VARCHAR, tags VARCHAR);
CREATE TABLE {a}.windows(id INTEGER, series INTEGER, middle_s BIGINT, start_ms BIGINT,
    end_ms BIGINT, received_s BIGINT, size BIGINT, digest VARCHAR, counters VARCHAR);
CREATE TABLE {a}.endpoints(series INTEGER, middle_s BIGINT, route VARCHAR, requests BIGINT);
CREATE TABLE {a}.totals(win INTEGER, series INTEGER, middle_s BIGINT, start_ms BIGINT,
    end_ms BIGINT, type INTEGER, labels INTEGER, value BIGINT);
INSERT INTO {a}.meta VALUES ('schema', '{version}');
"""
_SAMPLES: Final = """
CREATE TABLE {a}.samples_{t}(middle_s BIGINT, series INTEGER, labels INTEGER, node INTEGER,
    value BIGINT, span_ms BIGINT);
"""

# Samples of one window and type, as they travel into DuckDB: what is equal for all stands once.
_RUNS: Final = "STRUCT(m BIGINT, s INTEGER, w BIGINT, l INTEGER[], n INTEGER[], v BIGINT[])[]"


class Segment:
    """An attached file. ``write`` is for the writer thread; ``tables`` may be read anywhere."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: Path, day: int, part: int):
        self.path = path
        self.day = day
        self.part = part
        self.alias = f"s{day}_{part}"
        self._lock = threading.Lock()
        self._tables: Tables | None = None
        self._light: Tables | None = None  # types, label sets, processes of tables let go
        is_new = not path.exists()
        cursor = connection.cursor()
        cursor.execute(f"ATTACH '{_quoted(path)}' AS {self.alias}")
        if is_new or not self._has_schema(cursor):
            cursor.begin()
            for statement in _SCHEMA.format(a=self.alias, version=SCHEMA_VERSION).split(";\n"):
                if statement.strip():
                    cursor.execute(statement)
            cursor.commit()
        self._check_version(cursor)
        self._windows = self._count(cursor, "windows")

    def _has_schema(self, cursor: duckdb.DuckDBPyConnection) -> bool:
        found = cursor.execute(
            "SELECT count(*) FROM duckdb_tables() WHERE database_name = $1 AND table_name = 'meta'",
            [self.alias],
        ).fetchone()
        return bool(found and found[0])

    def _check_version(self, cursor: duckdb.DuckDBPyConnection) -> None:
        row = cursor.execute(f"SELECT value FROM {self.alias}.meta WHERE key = 'schema'").fetchone()
        if row is None or row[0] != str(SCHEMA_VERSION):
            found = row[0] if row else "none"
            raise StoreUnavailableError(
                f"{self.path} has schema {found}, this agent writes {SCHEMA_VERSION}; "
                "move the file away or use the conprof that wrote it"
            )

    def _count(self, cursor: duckdb.DuckDBPyConnection, table: str) -> int:
        row = cursor.execute(f"SELECT count(*) FROM {self.alias}.{table}").fetchone()
        return int(row[0]) if row else 0

    @property
    def windows(self) -> int:
        """How many there are; changes with every write."""
        return self._windows

    @property
    def size(self) -> int:
        """Bytes on disk, write-ahead log included."""
        return sum(
            os.path.getsize(path) for path in (self.path, Path(f"{self.path}.wal")) if path.exists()
        )

    def tables(self, connection: duckdb.DuckDBPyConnection) -> Tables:
        """Return the interned tables, read from the file at first use."""
        with self._lock:
            if self._tables is None:
                self._tables = _load(connection.cursor(), self.alias)
            return self._tables

    def label_tables(self, connection: duckdb.DuckDBPyConnection) -> Tables:
        """Return the tables without functions and nodes, or with them when they are there."""
        with self._lock:
            if self._tables is not None:
                return self._tables
            if self._light is None:
                self._light = _load(connection.cursor(), self.alias, with_stacks=False)
            return self._light

    def make_room(self) -> None:
        """Drop functions and nodes from memory."""
        with self._lock:
            if self._tables is not None:
                self._light = self._tables.without_stacks()
                self._tables = None

    def forget(self) -> None:
        """Drop the tables from memory, after a failed write: they hold what the file does not."""
        with self._lock:
            self._tables = self._light = None

    def digests(self, connection: duckdb.DuckDBPyConnection, count: int) -> list[str]:
        """Return the digests of the last uploads, oldest first."""
        rows = (
            connection.cursor()
            .execute(f"SELECT digest FROM {self.alias}.windows ORDER BY id DESC LIMIT {count}")
            .fetchall()
        )
        return [row[0] for row in reversed(rows)]

    def write(self, connection: duckdb.DuckDBPyConnection, uploads: Sequence[Upload]) -> None:
        """Store uploads in one transaction, all or nothing; durable when it returns.

        Raises:
            duckdb.Error, OSError: nothing of it was stored.
        """
        tables = self.tables(connection)
        tables.index()
        before = tables.sizes()
        cursor = connection.cursor()
        cursor.begin()
        try:
            batch = _Batch(tables, self._windows, int(time.time()))
            for upload in uploads:
                batch.add(upload)
            self._append_tables(cursor, tables, before)
            self._append(cursor, "windows", batch.windows)
            self._append(cursor, "endpoints", batch.endpoints)
            self._append(cursor, "totals", batch.totals, numbers=True)
            for number, runs in batch.samples.items():
                cursor.execute(
                    f"INSERT INTO {self.alias}.samples_{number} SELECT r.m, r.s, unnest(r.l), "
                    f"unnest(r.n), unnest(r.v), r.w FROM (SELECT unnest($1::JSON::{_RUNS}) AS r)",
                    [json.dumps(runs)],
                )
            cursor.commit()
        except BaseException:
            self.forget()
            try:
                cursor.rollback()
            except duckdb.Error:
                pass  # a failed commit has already rolled back
            raise
        self._windows += len(uploads)

    def _append_tables(
        self, cursor: duckdb.DuckDBPyConnection, tables: Tables, before: Sequence[int]
    ) -> None:
        types, functions, nodes, label_sets, series = before
        for number in range(types, len(tables.types)):
            cursor.execute(_SAMPLES.format(a=self.alias, t=number))
        self._append(
            cursor,
            "types",
            [
                (number, kind.name, kind.unit, kind.original, int(kind.instant))
                for number, kind in enumerate(tables.types[types:], types)
            ],
        )
        self._append(
            cursor,
            "functions",
            [
                (number, *function)
                for number, function in enumerate(tables.functions[functions:], functions)
            ],
        )
        fresh = zip(
            range(nodes, len(tables.node_parent)),
            tables.node_parent[nodes:],
            tables.node_function[nodes:],
            tables.node_line[nodes:],
            strict=True,
        )
        self._append(cursor, "nodes", list(fresh), numbers=True)
        self._append(
            cursor,
            "label_sets",
            [
                (number, _dump(labels))
                for number, labels in enumerate(tables.label_sets[label_sets:], label_sets)
            ],
        )
        self._append(
            cursor,
            "series",
            [
                (number, service, _dump(tags))
                for number, (service, tags) in enumerate(tables.series[series:], series)
            ],
        )

    def _append(
        self,
        cursor: duckdb.DuckDBPyConnection,
        table: str,
        rows: Sequence[Sequence[object]],
        *,
        numbers: bool = False,
    ) -> None:
        """Insert rows. One JSON parameter is the fastest way into DuckDB without numpy."""
        if not rows:
            return
        kind = "BIGINT" if numbers else "VARCHAR"
        columns = list(zip(*rows, strict=True))
        picked = ", ".join(f"unnest(j[{column + 1}])" for column in range(len(columns)))
        cursor.execute(
            f"INSERT INTO {self.alias}.{table} SELECT {picked} "
            f"FROM (SELECT $1::JSON::{kind}[][] AS j)",
            [json.dumps(columns)],
        )

    def checkpoint(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Move the write-ahead log into the file."""
        connection.cursor().execute(f"CHECKPOINT {self.alias}")

    def delete(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Remove the file; queries that still read it finish undisturbed."""
        connection.cursor().execute(f"DETACH {self.alias}")
        self.path.unlink(missing_ok=True)
        Path(f"{self.path}.wal").unlink(missing_ok=True)


# type number, then for each sample: label set, node, value
_Columns = tuple[int, list[int], list[int], list[int]]


class _Batch:
    """Rows of one transaction, collected before any statement runs."""

    def __init__(self, tables: Tables, windows: int, now_s: int) -> None:
        self._tables = tables
        self._next = windows
        self._now_s = now_s
        self.windows: list[tuple[object, ...]] = []
        self.endpoints: list[tuple[object, ...]] = []
        self.totals: list[tuple[int, ...]] = []
        self.samples: dict[int, list[dict[str, object]]] = defaultdict(list)

    def add(self, upload: Upload) -> None:
        tables = self._tables
        window = self._next
        self._next += 1
        series = tables.series_id(upload.service, upload.tags)
        middle = upload.middle_s
        start_ms, end_ms = upload.start_ns // 1_000_000, upload.end_ns // 1_000_000
        self.windows.append(
            (
                window,
                series,
                middle,
                start_ms,
                end_ms,
                self._now_s,
                upload.size,
                upload.digest.hex(),
                json.dumps(upload.counters),
            )
        )
        for route, requests in upload.endpoints.items():
            self.endpoints.append((series, middle, route, requests))
        for types, rows in upload.profiles:
            numbers = [tables.type_id(kind) for kind in types]
            sums: dict[tuple[int, int], int] = defaultdict(int)
            seen: dict[int, int] = {}
            columns: list[_Columns] = [(number, [], [], []) for number in numbers]
            for frames, labels, values in rows:
                label_set = tables.labels_id(labels)
                node = tables.node_id(frames, seen)
                for (number, of_labels, nodes, amounts), value in zip(columns, values, strict=True):
                    if value:
                        of_labels.append(label_set)
                        nodes.append(node)
                        amounts.append(value)
                        sums[number, label_set] += value
            for number, of_labels, nodes, amounts in columns:
                if nodes:
                    run = {"l": of_labels, "n": nodes, "v": amounts}
                    self.samples[number].append(
                        {"m": middle, "s": series, "w": end_ms - start_ms, **run}
                    )
            for number in numbers:  # a window without a sample of a type is a zero, not a gap
                sums.setdefault((number, tables.labels_id(())), 0)
            for (number, label_set), value in sums.items():
                self.totals.append(
                    (window, series, middle, start_ms, end_ms, number, label_set, value)
                )


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _dump(labels: Labels) -> str:
    return json.dumps(labels, separators=(",", ":"))


def _pairs(text: str) -> Labels:
    return tuple((key, value) for key, value in json.loads(text))


def _load(cursor: duckdb.DuckDBPyConnection, alias: str, *, with_stacks: bool = True) -> Tables:
    tables = Tables()

    def rows(table: str) -> Iterable[tuple[Any, ...]]:
        return cursor.execute(f"SELECT * FROM {alias}.{table} ORDER BY id").fetchall()

    tables.types = [
        ProfileType(name, unit, original, bool(instant))
        for _, name, unit, original, instant in rows("types")
    ]
    tables.label_sets = [_pairs(labels) for _, labels in rows("label_sets")]
    tables.series = [(service, _pairs(tags)) for _, service, tags in rows("series")]
    if not with_stacks:
        return tables
    tables.functions = [(name, file) for _, name, file in rows("functions")]
    columns = list(zip(*rows("nodes"), strict=True))
    if columns:
        tables.node_parent += array("i", columns[1])
        tables.node_function += array("i", columns[2])
        tables.node_line += array("i", columns[3])
    return tables
