"""What wall time costs a process whose threads wait: CPU of the looker, milliseconds a second.

    python benchmarks/wall_cost.py [seconds]

Threads wait in a lock, at depth 20; once with the CPU profile only, once with wall time. The CPU
time of the whole process is counted, so nothing of the profiler's is left out.
"""

from __future__ import annotations

import sys
import threading
import time

import conprof_core as conprof
from conprof_core.testing import capture

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0


def blocked(depth: int, gate: threading.Event) -> None:
    if depth:
        blocked(depth - 1, gate)
    else:
        gate.wait()


def cost_ms(count: int, types: list[conprof.ProfileType]) -> tuple[float, dict[str, int]]:
    """Return CPU milliseconds a second of a process with this many blocked threads."""
    gate = threading.Event()
    threads = [threading.Thread(target=blocked, args=(20, gate)) for _ in range(count)]
    with capture(profile_types=types, period=3600):
        for thread in threads:
            thread.start()
        time.sleep(2.0)
        before = time.process_time_ns()
        time.sleep(SECONDS)
        used = time.process_time_ns() - before
        engine = conprof.stats()["engine_stats"]
        gate.set()
        for thread in threads:
            thread.join()
    return used / 1e6 / SECONDS, engine


def main() -> None:
    print("blocked threads   cpu only   cpu + wall (ms/s)   looks   captures")
    for count in (50, 500):
        alone, _ = cost_ms(count, [conprof.CPU])
        both, engine = cost_ms(count, [conprof.CPU, conprof.WALL])
        print(
            f"{count:15} {alone:10.2f} {both:12.2f} {engine['wall_looks']:15} "
            f"{engine['wall_captures']:10}"
        )


if __name__ == "__main__":
    main()
