"""How long a snapshot of many asyncio tasks stops the application at a time, and its CPU.

    python benchmarks/tasks_cost.py [tasks ...]

A loop with so many suspended tasks also runs one that computes, without a pause, and notes the
longest time between two of its steps: with a snapshot under way in another thread, and for as long
without one. What the machine itself adds is in both.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time

from conprof_core._engine.tasks import Snapshot, snapshot

ROUNDS = 5


async def suspended(depth: int) -> None:
    if depth:
        await suspended(depth - 1)
    else:
        await asyncio.sleep(3600)


def longest_gap_ns(until_set: threading.Event) -> int:
    """Compute until the event is set; return the longest pause of this thread."""
    longest, last = 0, time.perf_counter_ns()
    while not until_set.is_set():
        now = time.perf_counter_ns()
        longest, last = max(longest, now - last), now
    return longest


def one_round(seconds: float | None) -> tuple[int, float, Snapshot | None]:
    """Return the longest gap, the CPU seconds of the other thread, and its snapshot.

    That thread takes a snapshot, or sleeps for ``seconds``.
    """
    over = threading.Event()
    cpu_s = 0.0
    taken: Snapshot | None = None

    def other() -> None:
        nonlocal cpu_s, taken
        began = time.thread_time()
        if seconds is None:
            taken = snapshot()
        else:
            time.sleep(seconds)
        cpu_s = time.thread_time() - began
        over.set()

    thread = threading.Thread(target=other)
    thread.start()
    gap = longest_gap_ns(over)
    thread.join()
    return gap, cpu_s, taken


async def measure(number: int) -> None:
    tasks = [asyncio.create_task(suspended(5)) for _ in range(number)]
    await asyncio.sleep(0.1)
    gc.collect()  # what the new tasks owe the collector is not the snapshot's
    on, off, cpu = [], [], []
    for _ in range(ROUNDS):
        gap, cpu_s, taken = one_round(None)
        assert taken is not None
        assert taken.total("task") == number + 1
        on.append(gap / 1e6)
        cpu.append(cpu_s * 1e3)
        off.append(one_round(taken.took_ns / 1e9)[0] / 1e6)
    middle = ROUNDS // 2
    print(
        f"{number:8} {sorted(on)[middle]:12.2f} {max(on):8.2f} {sorted(off)[middle]:14.2f} "
        f"{max(off):8.2f} {sorted(cpu)[middle]:14.1f}"
    )
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    print("longest stop, ms:  snapshot              without            CPU of a")
    print("   tasks       median      max         median      max   snapshot, ms")
    for number in [int(word) for word in sys.argv[1:]] or [100, 10_000, 100_000]:
        asyncio.run(measure(number))


if __name__ == "__main__":
    main()
