"""The workloads of ``accuracy.py``: each measures its own truth while it runs.

    python benchmarks/workloads.py NAME SECONDS DIRECTORY

profiles itself into the directory and prints one JSON line: ``cpu_s`` (``process_time`` from start
to stop), ``parts`` (function → CPU seconds, by ``thread_time`` around it), ``routes`` (function →
the label that all of its samples must carry) and what proves the premise.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import conprof_core as conprof

parts: dict[str, float] = defaultdict(float)
_parts_lock = threading.Lock()


@contextlib.contextmanager
def measured(name: str) -> Iterator[None]:
    """Add this thread's CPU time inside the block to a part."""
    began = time.thread_time()
    try:
        yield
    finally:
        took = time.thread_time() - began
        with _parts_lock:
            parts[name] += took


def burn(cpu_s: float) -> int:
    """Use CPU time in pure Python."""
    until = time.thread_time() + cpu_s
    total = 0
    while time.thread_time() < until:
        for number in range(200):
            total += number * number % 7
    return total


def sixty(cpu_s: float) -> None:
    with measured("sixty"):
        burn(cpu_s * 0.6)


def thirty(cpu_s: float) -> None:
    with measured("thirty"):
        burn(cpu_s * 0.3)


def ten(cpu_s: float) -> None:
    with measured("ten"):
        burn(cpu_s * 0.1)


def one_thread(seconds: float) -> dict[str, Any]:
    """Three functions that share one thread 60/30/10, in small turns."""
    # Not a multiple of the sampling period, or the same phase would be hit again and again.
    turn = 0.317
    for _ in range(int(seconds / turn)):
        sixty(turn)
        thirty(turn)
        ten(turn)
    return {}


def worker_a(cpu_s: float) -> None:
    with measured("worker_a"):
        burn(cpu_s)


def worker_b(cpu_s: float) -> None:
    with measured("worker_b"):
        burn(cpu_s)


def worker_c(cpu_s: float) -> None:
    with measured("worker_c"):
        burn(cpu_s)


def worker_d(cpu_s: float) -> None:
    with measured("worker_d"):
        burn(cpu_s)


def contending(seconds: float) -> dict[str, Any]:
    """Four threads that want the GIL all the time, 40/30/20/10."""
    shares = {worker_a: 0.4, worker_b: 0.3, worker_c: 0.2, worker_d: 0.1}
    _together([(worker, seconds * share) for worker, share in shares.items()])
    return {}


def hashing(cpu_s: float) -> None:
    """Hash without the GIL."""
    data = bytes(1 << 20)
    with measured("hashing"):
        until = time.thread_time() + cpu_s
        while time.thread_time() < until:
            hashlib.sha256(data).digest()


def gil_free(seconds: float) -> dict[str, Any]:
    """Hashing that releases the GIL, beside pure Python."""
    _together([(hashing, seconds / 2), (worker_a, seconds / 2)])
    return {}


def sleeper(cpu_s: float) -> None:
    """Sleep most of the time."""
    with measured("sleeper"):
        while not _burned.is_set():
            time.sleep(0.002)


_burned = threading.Event()


def burner(cpu_s: float) -> None:
    """Burn, then let the sleepers go."""
    with measured("burner"):
        burn(cpu_s)
    _burned.set()


def sleep_beside_burn(seconds: float) -> dict[str, Any]:
    """Threads that sleep must not be charged for the one that burns."""
    _together([(burner, seconds), (sleeper, 0), (sleeper, 0), (sleeper, 0)])
    return {}


def short(cpu_s: float) -> None:
    with measured("short"):
        burn(cpu_s)


def short_threads(seconds: float) -> dict[str, Any]:
    """3000 threads, each shorter than one sampling period."""
    count = 3000
    began = time.process_time()
    started = 0
    for _ in range(count // 3):
        threads = [threading.Thread(target=short, args=(seconds / count,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        started += len(threads)
        for thread in threads:
            thread.join()
    return {"threads": started, "all_cpu_s": time.process_time() - began}


def forked_child(seconds: float) -> dict[str, Any]:
    """A child after os.fork, which profiles itself as a new process."""
    read, write = os.pipe()
    burn(0.2)
    pid = os.fork()
    if pid == 0:
        parts.clear()
        began = time.process_time()
        one_thread(seconds)
        answer = {"cpu_s": time.process_time() - began, "parts": dict(parts)}
        conprof.stop()
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        answer = json.load(pipe)
    os.waitpid(pid, 0)
    return {"child": pid, **answer}


def work_of_a(cpu_s: float) -> None:
    """Work of route /a, in whatever thread or task: the function tells what the label must say."""
    with measured("work_of_a"):
        burn(cpu_s)


def work_of_b(cpu_s: float) -> None:
    """Work of route /b."""
    with measured("work_of_b"):
        burn(cpu_s)


ROUTES = {"work_of_a": "/a", "work_of_b": "/b"}


async def child_task(work: Callable[[float], None], cpu_s: float) -> None:
    await asyncio.sleep(0)
    work(cpu_s)


async def request(work: Callable[[float], None], cpu_s: float) -> None:
    """One request: own work, child tasks, a thread of asyncio's and one of anyio's."""
    import anyio.to_thread

    with conprof.labels(route=ROUTES[work.__name__]):
        work(cpu_s / 4)
        await asyncio.gather(*(child_task(work, cpu_s / 16) for _ in range(4)))
        await asyncio.to_thread(work, cpu_s / 4)
        await anyio.to_thread.run_sync(work, cpu_s / 4)


async def _serve(seconds: float) -> int:
    each, served = 0.016, 0

    async def client(work: Callable[[float], None], share: float) -> None:
        nonlocal served
        for _ in range(int(seconds * share / each)):
            await request(work, each)
            served += 1

    await asyncio.gather(client(work_of_a, 0.4), client(work_of_a, 0.2), client(work_of_b, 0.4))
    return served


def asyncio_routes(seconds: float) -> dict[str, Any]:
    """Two routes interleaved in one event loop, 60/40."""
    return {"requests": asyncio.run(_serve(seconds)), "routes": ROUTES}


def _together(work: list[tuple[Callable[[float], None], float]]) -> None:
    threads = [threading.Thread(target=target, args=(cpu_s,)) for target, cpu_s in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


WORKLOADS: dict[str, Callable[[float], dict[str, Any]]] = {
    "one_thread": one_thread,
    "contending": contending,
    "gil_free": gil_free,
    "sleep_beside_burn": sleep_beside_burn,
    "short_threads": short_threads,
    "forked_child": forked_child,
    "asyncio_routes": asyncio_routes,
}


def main() -> None:
    """Profile one workload and say what was true."""
    name, seconds, directory = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3])
    export_to = [directory.as_uri()]
    conprof.start(application_name=name, export_to=export_to, cpu_duration=600, period=600)
    began = time.process_time()
    answer = WORKLOADS[name](seconds)
    cpu_s = time.process_time() - began
    stats = conprof.stats()
    conprof.stop()
    print(json.dumps({"cpu_s": cpu_s, "parts": dict(parts), "stats": stats, **answer}))


if __name__ == "__main__":
    main()
