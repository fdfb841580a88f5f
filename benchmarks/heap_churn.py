"""A day of allocating: the profiler's own memory stays flat over a billion allocations.

    python benchmarks/heap_churn.py                 10^9 allocations, some minutes
    python benchmarks/heap_churn.py --millions 50

Blocks of many sizes are allocated from many stacks and freed at once, late, or by another thread,
while a live set of fixed size turns over; windows are taken all the time. Prints resident memory
as it goes. Fails when the last quarter needs more than the second by more than 2 MiB, or when
live bytes of the last window are off by more than 15 %.
"""

from __future__ import annotations

import argparse
import queue
import random
import sys
import threading
from pathlib import Path

from conprof_core import Profiler
from conprof_core._engine import Row
from conprof_core.testing import MemoryExporter

LIVE = 4000
SIZE = 10_000


def resident() -> int:
    """Return resident bytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def make_functions(count: int) -> list[object]:
    """Functions of many names, so that stacks are many, too."""
    made: list[object] = []
    for number in range(count):
        space: dict[str, object] = {}
        exec(f"def leaf_{number}(n, size):\n    for _ in n: bytes(size)", space)
        made.append(space[f"leaf_{number}"])
    return made


def main() -> int:
    """Run and judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--millions", type=int, default=1000)
    parser.add_argument("--mean", type=int, default=64 * 1024)
    args = parser.parse_args()
    exporter = MemoryExporter()
    profiler = Profiler(
        profile_types="cpu,heap", heap_sample_bytes=args.mean, exporters=(exporter,), period=2
    )
    live: list[int] = []

    def observe(rows: list[Row]) -> None:
        live.append(sum(row.inuse_bytes for row in rows))
        exporter.windows.clear()
        del live[:-2]

    profiler.observe(observe)
    profiler.start()
    exchange: queue.Queue[list[bytes] | None] = queue.Queue(4)

    def free() -> None:
        while exchange.get() is not None:
            pass

    thread = threading.Thread(target=free)
    thread.start()
    functions = make_functions(500)
    kept = [bytes(SIZE) for _ in range(LIVE)]
    seen: list[int] = []
    done, total = 0, args.millions * 1_000_000
    while done < total:
        for _ in range(100):
            function = random.choice(functions)
            function(range(10_000), random.choice((8, 32, 100, 400)))  # type: ignore[operator]
            for _ in range(20):
                kept[random.randrange(LIVE)] = bytes(SIZE)
            exchange.put([bytes(200) for _ in range(100)])
        done += 100 * 10_120
        if done * 40 // total > len(seen):
            seen.append(resident())
            print(f"{done / 1e6:7.0f} M allocations  {seen[-1] / 2**20:7.1f} MiB", flush=True)
    exchange.put(None)
    thread.join()
    stats = profiler.stats()
    profiler.stop()
    quarter = len(seen) // 4
    growth = max(seen[-quarter:]) - max(seen[quarter : 2 * quarter])
    truth = LIVE * sys.getsizeof(kept[0])
    print(f"growth from the second to the last quarter: {growth / 2**20:+.2f} MiB")
    print(f"live in the last window: {live[-1] / truth:.3f} of the blocks held")
    print({key: value for key, value in stats["engine_stats"].items() if "heap" in key})
    return 0 if growth < 2 << 20 and abs(live[-1] / truth - 1) < 0.15 else 1


if __name__ == "__main__":
    sys.exit(main())
