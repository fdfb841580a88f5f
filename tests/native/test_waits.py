"""Why it waits: for the GIL, for a lock or for neither, and on whose behalf."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

import conprof_core as conprof
from conprof_core.testing import Captured, capture
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


def test_gil_wait_of_contending_threads() -> None:
    waited: list[float] = []

    def contend() -> None:
        began, cpu = time.monotonic(), time.thread_time()
        while time.monotonic() < began + SECONDS:
            sum(range(1000))
        waited.append(time.monotonic() - began - time.thread_time() + cpu)

    with capture(profile_types=[conprof.WALL]) as captured:
        run_threads([contend] * 4)
    assert sum(waited) > 2 * SECONDS, "the premise: they waited for each other"
    rows = [row for row in captured.rows if any("contend" in f[0] for f in row.frames)]
    found = sum(row.gil_wait_ns for row in rows) / 1e9
    # On a busy machine, who holds the GIL waits for a CPU, and that is no wait for the GIL.
    assert 0.3 * sum(waited) < found < 1.1 * sum(waited)
    quiet = [row for row in captured.rows if not any("contend" in f[0] for f in row.frames)]
    assert sum(row.gil_wait_ns for row in quiet) < 0.5e9


def test_gil_waits_have_their_route() -> None:
    """What each route waited for the GIL is in its own rows, in proportion to its threads."""
    waited = {"/a": 0.0, "/b": 0.0}
    noting = threading.Lock()

    def contend(route: str) -> None:
        with conprof.labels(route=route):
            began, cpu = time.monotonic(), time.thread_time()
            while time.monotonic() < began + SECONDS:
                sum(range(1000))
        with noting:
            waited[route] += time.monotonic() - began - time.thread_time() + cpu

    # Seven of eight wait for the eighth, however few CPUs it finds.
    with capture(profile_types=[conprof.WALL]) as captured:
        run_threads([partial(contend, route) for route in ("/a",) * 6 + ("/b",) * 2])
    assert min(waited.values()) > SECONDS, "the premise: they waited for each other"
    rows = [row for row in captured.rows if any("contend" in frame[0] for frame in row.frames)]
    found = {
        route: sum(row.gil_wait_ns for row in rows if ("route", route) in row.labels) / 1e9
        for route in waited
    }
    # Whoever has the GIL and no CPU waits too, and which of the two it was is not always told.
    for route, seconds in waited.items():
        assert 0.1 * seconds < found[route] < 1.1 * seconds, (route, found, waited)
    assert found["/a"] > found["/b"]
    without = sum(row.gil_wait_ns for row in rows) / 1e9 - sum(found.values())
    assert without < 0.1 * sum(waited.values()), "work that has labels waits with them"


def in_rlock(lock: threading.RLock) -> None:  # type: ignore[valid-type]
    with lock:  # type: ignore[attr-defined]
        pass


def in_condition(condition: threading.Condition) -> None:
    with condition:
        pass


def in_semaphore(semaphore: threading.Semaphore) -> None:
    semaphore.acquire(timeout=SECONDS)


def in_event() -> None:
    threading.Event().wait(SECONDS)


def in_event_of_a_request() -> None:
    with conprof.labels(route="/slow"):
        threading.Event().wait(SECONDS)


def in_result(future: Future[None]) -> None:
    with conprof.labels(route="/pool"):
        future.result()


def lock_wait_s(captured: Captured, function: str) -> float:
    rows = [r for r in captured.rows if any(f[0] == function for f in r.frames)]
    assert all(row.lock_wait_ns <= row.wall_ns for row in rows)
    return sum(row.lock_wait_ns for row in rows) / 1e9


def test_waits_for_locks_are_told_from_other_waits() -> None:
    rlock, condition, semaphore = threading.RLock(), threading.Condition(), threading.Semaphore(0)
    with capture(profile_types=[conprof.WALL]) as captured:
        with ThreadPoolExecutor(4, thread_name_prefix="idle") as pool:
            for future in [pool.submit(time.sleep, 0.05) for _ in range(4)]:
                future.result()
            slow = pool.submit(time.sleep, SECONDS)
            held = threading.Thread(
                target=run_threads,
                args=(
                    (
                        *(in_sleep, in_lock, in_queue, in_event, in_event_of_a_request),
                        partial(in_rlock, rlock),
                        partial(in_condition, condition),
                        partial(in_semaphore, semaphore),
                        partial(in_result, slow),
                    ),
                ),
            )
            with rlock, condition:
                held.start()
                time.sleep(SECONDS)
            held.join()
    for function in ("in_lock", "in_rlock", "in_condition", "in_semaphore"):
        assert lock_wait_s(captured, function) > SECONDS - 0.5, function
    assert lock_wait_s(captured, "in_event_of_a_request") > SECONDS - 0.5
    idle = ("in_sleep", "in_queue", "in_event", "in_result", "_worker")
    assert wall_s(captured, "_worker") > SECONDS, "the premise: workers were idle"
    for function in idle:
        assert wall_s(captured, function) > SECONDS - 0.5, "the premise: it waited"
        # Less than one look may have found it at the lock that guards what it waits for.
        assert lock_wait_s(captured, function) < 0.2, function


def test_lock_waits_have_their_route() -> None:
    lock = threading.Lock()

    def contender(route: str) -> None:
        with conprof.labels(route=route), lock:
            time.sleep(SECONDS / 2)

    with capture(profile_types=[conprof.WALL]) as captured:
        run_threads([partial(contender, route) for route in ("/a", "/b", "/c")])
    # Threads that earlier tests left wait for events of their own.
    rows = [row for row in captured.rows if any("contender" in frame[0] for frame in row.frames)]
    waited = sum(row.lock_wait_ns for row in rows) / 1e9
    by_route = {
        route: sum(row.lock_wait_ns for row in rows if dict(row.labels).get("route") == route) / 1e9
        for route in ("/a", "/b", "/c")
    }
    # One goes first, one waits for one turn, one for two.
    assert waited == pytest.approx(SECONDS * 1.5, abs=0.6)
    assert sum(by_route.values()) == pytest.approx(waited, abs=0.1)
    assert sum(seconds > SECONDS / 4 for seconds in by_route.values()) == 2


def test_suspended_tasks_wait_for_locks() -> None:
    async def holder(lock: asyncio.Lock) -> None:
        async with lock:
            await asyncio.sleep(SECONDS)

    async def waiter(lock: asyncio.Lock) -> None:
        async with lock:
            pass

    async def idler(event: asyncio.Event) -> None:
        await event.wait()

    async def main() -> None:
        lock, event = asyncio.Lock(), asyncio.Event()
        idle = asyncio.create_task(idler(event))
        first = asyncio.create_task(holder(lock))
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(waiter(lock)) for _ in range(8)]
        await asyncio.gather(first, *waiting)
        event.set()
        await idle

    with capture(profile_types=[conprof.WALL]) as captured:
        asyncio.run(main())
    waited = {
        name: sum(
            r.lock_wait_ns for r in captured.rows if any(f[0].endswith(name) for f in r.frames)
        )
        / 1e9
        for name in ("holder", "waiter", "idler")
    }
    assert wall_s(captured, "idler") > 0, "the premise: looks saw tasks"
    assert waited["holder"] == waited["idler"] == 0
    # A look may come when the lock is free and its next holder has not run yet.
    suspended = wall_s(captured, "waiter")
    assert 0 < suspended * 0.9 < waited["waiter"] <= suspended


def hold_and_want(take: Callable[[], Callable[[], None]]) -> Captured:
    """Capture a thread that waits with ``take`` for what another one holds."""
    taken = threading.Event()

    def holder() -> None:
        give_back = take()
        taken.set()
        time.sleep(SECONDS)
        give_back()

    def wanter() -> None:
        assert taken.wait(30)
        take()()

    with capture(profile_types=[conprof.WALL]) as captured:
        run_threads([holder, wanter])
    return captured


def test_a_pool_of_urllib3_is_a_lock() -> None:
    connectionpool = pytest.importorskip("urllib3.connectionpool")
    pool = connectionpool.HTTPConnectionPool("127.0.0.1", maxsize=1, block=True)

    def take() -> Callable[[], None]:
        return partial(pool._put_conn, pool._get_conn())

    captured = hold_and_want(take)
    assert lock_wait_s(captured, "HTTPConnectionPool._get_conn") > SECONDS / 2


def test_a_pool_of_sqlalchemy_is_a_lock() -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    engine = sqlalchemy.create_engine(
        "sqlite://",
        poolclass=sqlalchemy.QueuePool,
        pool_size=1,
        max_overflow=0,
        connect_args={"check_same_thread": False},
    )

    def take() -> Callable[[], None]:
        close: Callable[[], None] = engine.connect().close
        return close

    captured = hold_and_want(take)
    assert lock_wait_s(captured, "QueuePool._do_get") > SECONDS / 2
    engine.dispose()


def test_a_full_thread_pool_of_anyio_is_a_lock() -> None:
    anyio = pytest.importorskip("anyio")

    async def endpoint(limiter: Any) -> None:
        await anyio.to_thread.run_sync(time.sleep, SECONDS, limiter=limiter)

    async def main() -> None:
        limiter = anyio.CapacityLimiter(1)
        await asyncio.gather(endpoint(limiter), endpoint(limiter))

    with capture(profile_types=[conprof.WALL]) as captured:
        asyncio.run(main())
    # One waits for the other's slot, and the other for its own thread.
    rows = [row for row in captured.rows if any("endpoint" in f[0] for f in row.frames)]
    assert sum(row.lock_wait_ns for row in rows) / 1e9 == pytest.approx(SECONDS, rel=0.6)
    slot = "CapacityLimiter.acquire_on_behalf_of"
    assert all(any(f[0] == slot for f in row.frames) for row in rows if row.lock_wait_ns)


def test_an_idle_worker_of_waitress_waits_for_no_lock() -> None:
    task = pytest.importorskip("waitress.task")
    with capture(profile_types=[conprof.WALL]) as captured:
        dispatcher = task.ThreadedTaskDispatcher()
        dispatcher.set_thread_count(2)
        time.sleep(SECONDS)
        dispatcher.shutdown()
    worker = "ThreadedTaskDispatcher.handler_thread"
    assert wall_s(captured, "handler_thread") > SECONDS, "the premise: it waited"
    assert lock_wait_s(captured, worker) < 0.2
