"""How long a day of 20 processes takes to merge into a flame graph, and what the day costs on disk.

    python benchmarks/agent_merge.py [--processes 20] [--hours 24] [--days 1]

Windows of 45 s, 150 samples each out of 4000 stacks, in 12 routes and 4 threads, three profile
types. The rows are made inside DuckDB, in the store's own schema; the stacks come through the
intake's own tables. Figures are the median of five runs in one process, caches warm, and the first.
"""

# ruff: noqa: E501 - SQL
from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

from conprof_core.agent import query
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


def fill(store: Store, day: int, processes: int, hours: int) -> None:
    """Put one day into a file of its own."""
    path = store.directory / "segments" / f"fill-{day}.tmp"
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
    for name, unit in TYPES:
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
    for number in range(len(TYPES)):
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
        f"day {day}: {windows * processes} windows of {len(TYPES)} types, {segment.size / 1e6:.0f} MB"
    )


def measure(name: str, work) -> None:  # type: ignore[no-untyped-def]
    """Print the first and the median time."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1000)
    print(f"{name:34} first {times[0]:7.0f} ms   median {statistics.median(times):7.0f} ms")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=20)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--days", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        store = Store(Path(directory), keep_days=100)
        today = int(time.time()) // DAY_S
        for day in range(today - arguments.days, today):
            fill(store, day, arguments.processes, arguments.hours)
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
            measure(f"table of {arguments.days} days", lambda: query.table(store, whole))
        store.close()


if __name__ == "__main__":
    main()
