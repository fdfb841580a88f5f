"""How long a day of 20 processes takes to merge into a flame graph, and what the day costs on disk.

    python benchmarks/agent_merge.py [--processes 20] [--hours 24] [--days 1] [--all-types]

Windows of 45 s, 150 samples of each type out of 4000 stacks, in 12 routes and 4 threads, three
profile types or, with --all-types, the nine of a process that profiles everything. The rows are
made inside DuckDB, in the store's own schema; the stacks come through the intake's own tables.
Figures are the first of five runs in one process and their median. The store keeps answers about
whole days, so the first says what a look costs and the median what the next one does; a merge
builds its tree each time. At a month's scale
(--days 30 --all-types) the directory is opened again, and takes uploads beside what it holds.
"""

# ruff: noqa: E501 - SQL
from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

from agent_ingest import BOUNDARY, body

from conprof_core.agent import query
from conprof_core.agent.intake import parse
from conprof_core.agent.merge import merge_into
from conprof_core.agent.names import profile_type
from conprof_core.agent.segment import Segment
from conprof_core.agent.selection import Selection
from conprof_core.agent.store import DAY_S, Store
from conprof_core.agent.tree import FlameTree

WINDOW_S = 45
SAMPLES = 150
STACKS = 4000
TYPES = (("cpu-time", "nanoseconds"), ("cpu-samples", "count"), ("wall-time", "nanoseconds"))
ALL_TYPES = (
    *TYPES,
    ("wall-samples", "count"),
    ("alloc-space", "bytes"),
    ("alloc-samples", "count"),
    ("heap-space", "bytes"),
    ("heap-live-samples", "count"),
    ("goroutine", "count"),
)
UPLOADS = 400

Types = tuple[tuple[str, str], ...]


def fill(store: Store, day: int, processes: int, hours: int, types: Types) -> None:
    """Put one day into a file of its own."""
    path = (
        store.directory
        / "segments"
        / f"{time.strftime('%Y-%m-%d', time.gmtime(day * DAY_S))}-001.duckdb"
    )
    segment = Segment(store.connection, path, day, 1)
    store._segments[day, 1] = segment
    tables = segment.tables(store.connection)
    tables.index()
    before = tables.sizes()
    chance = random.Random(1)
    nodes = []
    for stack in range(STACKS):
        depth = 8 + chance.randrange(24)
        frames = tuple(
            (f"f{(stack // 2**k) % 500}", f"/srv/m{k % 20}.py", 10 + k) for k in range(depth)
        )
        nodes.append(tables.node_id(frames[::-1], {}))
    for name, unit in types:
        tables.type_id(profile_type(name, unit, ""))
    for route in range(12):
        for thread in range(4):
            tables.labels_id((("http.route", f"/r{route}"), ("thread", f"t{thread}")))
    for process in range(processes):
        tables.series_id("shop", (("process_id", str(process)),))
    cursor = store.connection.cursor()
    cursor.begin()
    segment._append_tables(cursor, tables, before)
    cursor.commit()
    windows = hours * 3600 // WINDOW_S
    store.connection.execute(
        "CREATE OR REPLACE TEMP TABLE stacks AS SELECT unnest($1::INTEGER[]) AS node", [nodes]
    )
    cursor = store.connection
    for number in range(len(types)):
        cursor.execute(
            f"INSERT INTO {segment.alias}.samples_{number} SELECT {day * DAY_S} + w * {WINDOW_S}, s, "
            f"(random() * 47)::INTEGER, ($1::INTEGER[])[1 + (random() * random() * {STACKS - 1})::INTEGER], "
            f"10000000 * (1 + (random() * 4)::INTEGER), {WINDOW_S * 1000} "
            f"FROM range({windows}) t(w), range({processes}) u(s), range({SAMPLES}) v(n)",
            [nodes],
        )
        cursor.execute(
            f"INSERT INTO {segment.alias}.totals SELECT row_number() OVER (), series, middle_s, "
            f"middle_s * 1000 - {WINDOW_S * 500}, middle_s * 1000 + {WINDOW_S * 500}, {number}, labels, "
            f"sum(value) FROM {segment.alias}.samples_{number} GROUP BY series, middle_s, labels "
            "ORDER BY middle_s"
        )
    segment.checkpoint(store.connection)
    print(
        f"day {day}: {windows * processes} windows of {len(types)} types, {segment.size / 1e6:.0f} MB"
    )


def measure(name: str, work) -> None:  # type: ignore[no-untyped-def]
    """Print the first and the median time."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1000)
    print(f"{name:34} first {times[0]:7.0f} ms   median {statistics.median(times):7.0f} ms")


def ingest(store: Store) -> None:
    """Print what it takes to store uploads beside what is there: parsing, then commits of 64."""
    now = time.time()
    bodies = [body(number, 100, now) for number in range(UPLOADS)]
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    start = time.process_time()
    uploads = [parse(kind, content, now) for content in bodies]
    parsed = time.process_time()
    for first in range(0, UPLOADS, 64):
        assert not any(store.write(uploads[first : first + 64]))
    stored = time.process_time()
    print(
        f"{UPLOADS} uploads: {(parsed - start) / UPLOADS * 1000:.2f} ms of CPU each to read, "
        f"{(stored - parsed) / UPLOADS * 1000:.2f} ms to store"
    )


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=20)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--days", type=int, default=1)
    parser.add_argument("--all-types", action="store_true")
    arguments = parser.parse_args()
    types = ALL_TYPES if arguments.all_types else TYPES
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory), keep_days=100)
        today = int(time.time()) // DAY_S
        for day in range(today - arguments.days, today):
            fill(store, day, arguments.processes, arguments.hours, types)
        print(f"{len(store.segments())} files, {store.size / 1e9:.2f} GB")
        start, end = (today - 1) * DAY_S, today * DAY_S
        selection = Selection("cpu", start, end, "shop")

        def merge() -> FlameTree:
            tree = FlameTree()
            merge_into(tree, store, selection)
            return tree

        print(f"tree of {len(merge())} nodes")
        measure("merge of a day", merge)
        measure("merge of a day, to JSON", lambda: merge().to_json(100_000))
        measure("table by route", lambda: query.table(store, selection))
        measure("time series", lambda: query.series(store, selection, 300, "http.route"))
        measure("services", lambda: query.services(store, start, end))
        if arguments.days > 1:
            whole = Selection("cpu", start - (arguments.days - 1) * DAY_S, end, "shop")
            days = f"{arguments.days} days"
            measure(f"table of {days}", lambda: query.table(store, whole))
            measure(
                f"time series of {days}", lambda: query.series(store, whole, 3600, "http.route")
            )
            measure(f"services of {days}", lambda: query.services(store, whole.from_s, end))
            measure(f"labels of {days}", lambda: query.labels(store, whole))

            def merge_all() -> None:
                merge_into(FlameTree(), store, whole)

            measure(f"merge of {days}", merge_all)
        store.close()
        began = time.perf_counter()
        store = Store(Path(directory), keep_days=100)
        print(f"opened again in {(time.perf_counter() - began) * 1000:.0f} ms")
        ingest(store)
        store.close()
        with open("/proc/self/status") as status:
            print(
                "most memory:",
                next(line for line in status if line.startswith("VmHWM")).split()[1],
                "KiB",
            )


if __name__ == "__main__":
    main()
