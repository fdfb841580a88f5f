"""Wall time: what threads wait for, thread by thread, with their labels."""

from __future__ import annotations

import asyncio
import os
import queue
import socket
import subprocess
import threading
import time

import pytest

import conprof_core as conprof
from conprof_core import _native
from conprof_core.testing import capture
from tests.support.process import run_script
from tests.support.waits import run_threads, wall_s

pytestmark = pytest.mark.native_core

SECONDS = 1.5


def in_sleep() -> None:
    time.sleep(SECONDS)


def in_lock() -> None:
    lock = threading.Lock()
    with lock:
        lock.acquire(timeout=SECONDS)


def in_queue() -> None:
    with pytest.raises(queue.Empty):
        queue.Queue[int]().get(timeout=SECONDS)


def in_socket() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.settimeout(SECONDS)
        with pytest.raises(TimeoutError):
            left.recv(1)


def in_subprocess() -> None:
    subprocess.run(["sleep", str(SECONDS)], check=True)


def in_many_sleeps() -> None:
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        time.sleep(0.002)


@pytest.mark.leaves_process
def test_each_kind_of_waiting_gets_its_time() -> None:
    kinds = (in_sleep, in_lock, in_queue, in_socket, in_subprocess, in_many_sleeps)
    with capture(profile_types=[conprof.WALL]) as captured:
        began = time.monotonic()
        run_threads(kinds)
        lived = time.monotonic() - began
        counted = conprof.stats()["engine_stats"]
    assert counted["wall_looks"] > counted["wall_captures"] > len(kinds)
    for kind in kinds:
        # At both ends, where it stood a look before or after is a guess: half a look each.
        assert SECONDS - 0.15 < wall_s(captured, kind.__name__) < lived + 0.15, kind.__name__


def test_the_sum_of_a_thread_is_its_life() -> None:
    lived: list[float] = []

    def mixed() -> None:
        began, cpu = time.monotonic(), time.thread_time()
        while time.thread_time() < cpu + 0.3:  # however few of the CPUs there are for it
            time.sleep(0.01)
            until = time.thread_time() + 0.01
            while time.thread_time() < until:
                sum(range(100))
        lived.append(time.monotonic() - began)

    with capture(profile_types=[conprof.WALL]) as captured:
        thread = threading.Thread(target=mixed, name="the-mixed-one")
        thread.start()
        thread.join()
    rows = [row for row in captured.rows if row.thread_name == "the-mixed-one"]
    assert sum(row.cpu_ns for row in rows) > 0.05e9, "the premise: it was on the CPU"
    found = sum(row.wall_ns for row in rows) / 1e9
    assert lived[0] <= found * 1.01
    assert found < lived[0] + 0.1


def test_a_blocked_thread_keeps_its_labels() -> None:
    lived: list[float] = []

    def labelled_wait() -> None:
        began = time.monotonic()
        with conprof.labels(job="invoice"):
            time.sleep(SECONDS / 2)
        with conprof.labels(job="report"):
            time.sleep(SECONDS / 2)
        lived.append(time.monotonic() - began)

    with capture(profile_types=[conprof.WALL]) as captured:
        run_threads([labelled_wait] * 5)
    for job in ("invoice", "report"):
        assert abs(wall_s(captured, "labelled_wait", job=job) - sum(lived) / 2) < 0.8, job
    assert wall_s(captured, "labelled_wait") - sum(lived) < 0.5


def test_a_route_bound_while_it_waits_holds_for_the_wait() -> None:
    base, final = _native.intern_labels({"m": "GET"}), _native.intern_labels({"r": "/x"})
    cell = _native.LabelCell(base, provisional=True)

    def bound_late() -> None:
        token = _native.context_var.set(cell)
        time.sleep(SECONDS)
        _native.context_var.reset(token)

    with capture(profile_types=[conprof.WALL]) as captured:
        thread = threading.Thread(target=bound_late)
        thread.start()
        time.sleep(SECONDS / 2)
        cell.bind(final)
        thread.join()
    assert wall_s(captured, "bound_late", r="/x") > SECONDS * 0.8
    assert wall_s(captured, "bound_late", m="GET") == 0


def test_an_idle_loop_waits_for_nobody() -> None:
    async def request() -> None:
        with conprof.labels(route="/fast"):
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.create_task(request())
        await asyncio.sleep(SECONDS)

    with capture(profile_types=[conprof.WALL]) as captured:
        asyncio.run(main())
    assert wall_s(captured, "select") > SECONDS * 0.8
    assert wall_s(captured, "select", route="/fast") == 0


def test_suspended_tasks_wait_with_their_labels() -> None:
    async def long_wait() -> None:
        await asyncio.sleep(SECONDS)

    async def outer(route: str) -> None:
        with conprof.labels(route=route):
            await asyncio.gather(long_wait(), long_wait())

    async def main() -> None:
        await asyncio.gather(*(outer(f"/{number % 2}") for number in range(10)))

    with capture(profile_types=[conprof.WALL]) as captured:
        asyncio.run(main())
    rows = [row for row in captured.rows if row.frames[-1][0] == "[suspended task]"]
    assert rows, "the premise: tasks were seen"
    for route in ("/0", "/1"):
        waited = wall_s(captured, "long_wait", route=route)
        # Less by the time until the first look, which is long under a sanitizer.
        # And tasks that a sanitizer slows down end later than they asked for.
        most = 2 if "CONPROF_UNDER_SANITIZER" in os.environ else 1.2
        assert 0.4 * 10 * SECONDS < waited < most * 10 * SECONDS, route
    assert all("select" not in frame[0] for row in rows for frame in row.frames)


@pytest.mark.skipif(
    "CONPROF_UNDER_SANITIZER" in os.environ, reason="a sanitizer has three looks a minute"
)
def test_many_tasks_are_sampled_and_scaled() -> None:
    """However slow looks are, and however few tasks each of them can read."""
    count = 5_000
    lived = 0.0

    async def one_of_many(over: asyncio.Event) -> None:
        await over.wait()

    def until_looks(more: int) -> None:
        def looks() -> int:
            return conprof.stats()["engine_stats"]["wall_task_looks"]

        enough, deadline = looks() + more, time.monotonic() + 90
        while looks() < enough and time.monotonic() < deadline:
            time.sleep(0.05)
        assert looks() >= enough, "the premise: there were looks"

    async def main() -> None:
        nonlocal lived
        over = asyncio.Event()
        began = time.monotonic()
        tasks = [asyncio.create_task(one_of_many(over)) for _ in range(count)]
        await asyncio.sleep(0)
        await asyncio.to_thread(until_looks, 12)
        conprof.flush()  # no time is lost at the end of a window
        lived = time.monotonic() - began
        over.set()
        await asyncio.gather(*tasks)

    with capture(profile_types=[conprof.WALL]) as captured:
        asyncio.run(main())
        counted = conprof.stats()["engine_stats"]
    assert counted["wall_tasks_read"] < count, "the premise: no look read all"
    # Half of the time between two looks is a guess at both ends: some 4 % each.
    assert wall_s(captured, "one_of_many") == pytest.approx(lived * count, rel=0.25)


def test_where_nobody_moves_looks_are_half_as_many() -> None:
    def looks_while(busy: bool) -> int:
        gate = threading.Event()
        threads = [threading.Thread(target=gate.wait) for _ in range(20)]
        with capture(profile_types=[conprof.WALL]):
            for thread in threads:
                thread.start()
            before = _native.stats()["wall_looks"]
            until = time.monotonic() + SECONDS
            while time.monotonic() < until:
                time.sleep(0.01 if busy else SECONDS)
            looks = _native.stats()["wall_looks"] - before
            gate.set()
            for thread in threads:
                thread.join()
        return looks

    moving, still = looks_while(True), looks_while(False)
    assert still > 20 * SECONDS * 4, "the premise: there were looks"
    assert still < 0.8 * moving


def test_off_there_is_no_wall_time() -> None:
    with capture() as captured:
        run_threads([in_many_sleeps])
    assert all(row.wall_ns == row.wall_samples == row.gil_wait_ns == 0 for row in captured.rows)


def test_a_pause_is_not_charged() -> None:
    with capture(profile_types=[conprof.WALL], cpu_duration=0.5, period=3600) as captured:
        run_threads([in_sleep])
    assert 0.2 < wall_s(captured, "in_sleep") < 0.9


def test_windows_share_a_long_wait() -> None:
    with capture(profile_types=[conprof.WALL]) as captured:
        thread = threading.Thread(target=in_sleep)
        thread.start()
        for _ in range(5):
            time.sleep(SECONDS / 6)
            conprof.flush()
        thread.join()
    assert abs(wall_s(captured, "in_sleep") - SECONDS) < 0.2


@pytest.mark.leaves_process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_fork_both_go_on() -> None:
    run_script(
        """
import os, threading, time, warnings
import conprof_core as conprof
from conprof_core.testing import capture
warnings.simplefilter("error")

def waits():
    time.sleep(1.0)

def own_wall(captured):
    return sum(r.wall_ns for r in captured.rows if any(f[0] == "waits" for f in r.frames)) / 1e9

with capture(profile_types=[conprof.WALL]) as captured:
    pid = os.fork()   # a warning here would be ours: there is one thread
    waits()
    if pid == 0:
        conprof.stop()
        os._exit(0 if conprof.stats() is not None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert 0.8 < own_wall(captured) < 1.3, own_wall(captured)
"""
    )
