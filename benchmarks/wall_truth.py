"""Is wall time where the time went? Threads of known waiting, against what the profile says.

    python benchmarks/wall_truth.py [seconds]

1. Thread-seconds: one thread for each kind of waiting; the time that the profile gives the thread's
   function against the time the thread lived, and how much of it is a wait for a lock.
2. GIL wait: four threads of pure Python; GIL wait in the profile against wall time less CPU time.
   On a machine that does other things threads also wait for a CPU, with the GIL or without: that
   time is shown as the kernel counts it, and says how far the two may differ.
3. Tasks: asyncio tasks that wait in three places, 60 : 30 : 10 of the time, against what they noted
   themselves: timers are late on a busy machine.
"""

from __future__ import annotations

import asyncio
import queue
import random
import select
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from itertools import count

import conprof_core as conprof
from conprof_core.testing import Captured, capture

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
PAYLOAD = bytes(range(256)) * (1 << 14)


def wait_in_sleep(until: float) -> None:
    time.sleep(until - time.monotonic())


def wait_in_short_sleeps(until: float) -> None:
    while time.monotonic() < until:
        time.sleep(0.003)


def wait_in_lock(until: float) -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=until - time.monotonic())


def wait_in_queue(until: float) -> None:
    try:
        queue.Queue[int]().get(timeout=until - time.monotonic())
    except queue.Empty:
        pass


def wait_in_socket(until: float) -> None:
    left, right = socket.socketpair()
    with left, right:
        left.settimeout(until - time.monotonic())
        try:
            left.recv(1)
        except TimeoutError:
            pass


def wait_in_select(until: float) -> None:
    left, right = socket.socketpair()
    with left, right:
        select.select([left], [], [], until - time.monotonic())


def wait_in_subprocess(until: float) -> None:
    subprocess.run(["sleep", f"{max(0.0, until - time.monotonic()):.3f}"], check=True)


def wait_in_c_code(until: float) -> None:
    while time.monotonic() < until:
        zlib.compress(PAYLOAD, 6)  # releases the GIL


WAITS: tuple[Callable[[float], None], ...] = (
    wait_in_sleep,
    wait_in_short_sleeps,
    wait_in_lock,
    wait_in_queue,
    wait_in_socket,
    wait_in_select,
    wait_in_subprocess,
    wait_in_c_code,
)


def wall_s(captured: Captured, function: str) -> float:
    """Return the wall seconds of rows with this function in their stack."""
    return (
        sum(
            row.wall_ns
            for row in captured.rows
            if any(frame[0] == function for frame in row.frames)
        )
        / 1e9
    )


def thread_seconds() -> None:
    lived: dict[str, float] = {}

    def run(wait: Callable[[float], None]) -> None:
        began = time.monotonic()
        wait(began + SECONDS)
        lived[wait.__name__] = time.monotonic() - began

    with capture(profile_types=[conprof.WALL]) as captured:
        threads = [threading.Thread(target=run, args=(wait,)) for wait in WAITS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print("thread-seconds                lived   profile    difference  lock wait")
    for name, seconds in lived.items():
        found = wall_s(captured, name)
        locked = sum(
            row.lock_wait_ns for row in captured.rows if any(f[0] == name for f in row.frames)
        )
        print(
            f"  {name:24} {seconds:9.3f} {found:9.3f} {100 * (found / seconds - 1):+10.2f} % "
            f"{locked / 1e9:9.3f}"
        )


def run_delay_s() -> float:
    """Return how long this thread was ready to run and had no CPU, as the kernel counts it."""
    try:
        with open("/proc/thread-self/schedstat", encoding="ascii") as file:
            return int(file.read().split()[1]) / 1e9
    except OSError:
        return float("nan")


def gil_wait() -> None:
    lived, used, delayed = [], [], []

    def contend() -> None:
        began, cpu = time.monotonic(), time.thread_time()
        until = began + SECONDS
        for number in count():
            if number % 1000 == 0 and time.monotonic() > until:
                break
        lived.append(time.monotonic() - began)
        used.append(time.thread_time() - cpu)
        delayed.append(run_delay_s())

    with capture(profile_types=[conprof.WALL]) as captured:
        threads = [threading.Thread(target=contend) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    rows = [
        row for row in captured.rows if any(frame[0].endswith("contend") for frame in row.frames)
    ]
    waited = sum(row.gil_wait_ns for row in rows) / 1e9
    truth = sum(lived) - sum(used)
    print(
        f"GIL wait of 4 threads: wall - CPU {truth:.3f} s, profile {waited:.3f} s "
        f"({100 * (waited / truth - 1):+.2f} %); "
        f"three quarters of wall time {sum(lived) * 0.75:.3f} s, "
        f"ready without a CPU {sum(delayed):.3f} s; "
        f"wall {sum(lived):.3f} s, profile {sum(row.wall_ns for row in rows) / 1e9:.3f} s"
    )


async def wait_60() -> None:
    await asyncio.sleep(0.06 * random.uniform(0.5, 1.5))


async def wait_30() -> None:
    await asyncio.sleep(0.03 * random.uniform(0.5, 1.5))


async def wait_10() -> None:
    await asyncio.sleep(0.01 * random.uniform(0.5, 1.5))


PLACES = (wait_60, wait_30, wait_10)


async def task(until: float, waited: dict[str, float]) -> None:
    while time.monotonic() < until:
        for place in PLACES:
            began = time.monotonic()
            await place()
            waited[place.__name__] += time.monotonic() - began


def tasks() -> None:
    waited = dict.fromkeys((place.__name__ for place in PLACES), 0.0)

    async def main() -> None:
        until = time.monotonic() + SECONDS
        running = []
        for _ in range(20):
            running.append(asyncio.create_task(task(until, waited)))
            await asyncio.sleep(0.007)  # out of step, as uneven waits keep them
        await asyncio.gather(*running)

    with capture(profile_types=[conprof.WALL]) as captured:
        asyncio.run(main())
    found = {name: wall_s(captured, name) for name in waited}
    total, truth = sum(found.values()) or 1.0, sum(waited.values())
    shares = ", ".join(
        f"{name} {100 * waited[name] / truth:.1f} % profile {100 * found[name] / total:.1f} %"
        for name in waited
    )
    print(f"tasks: {shares}; task-seconds {truth:.1f}, profile {total:.1f}")


if __name__ == "__main__":
    thread_seconds()
    gil_wait()
    tasks()
