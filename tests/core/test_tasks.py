"""The snapshot of threads, asyncio tasks and greenlets: counts, states, stacks, labels.

Populations are planted and counted by the function that only they have in their stack.
"""

from __future__ import annotations

import asyncio
import gc
import queue
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

import conprof_core as conprof
from conprof_core._engine.tasks import Entry, Snapshot, snapshot
from conprof_core._tasks_text import debug1, debug2, to_json
from tests.support.process import run_script


def has_extension() -> bool:
    try:
        from conprof_core import _native
    except ImportError:
        return False
    return hasattr(_native, "thread_facts")


@pytest.fixture(params=["extension", "portable"])
def take(request: pytest.FixtureRequest) -> Callable[..., Snapshot]:
    """``snapshot``, reading threads with and without the extension."""
    use = request.param == "extension"
    if use and not has_extension():
        pytest.skip("the C extension is not part of this installation")
    return lambda **options: snapshot(use_extension=use, **options)


def entries_of(taken: Snapshot, function: str, kind: str = "") -> list[Entry]:
    """Entries whose innermost frame of this file is ``function``."""
    found = []
    for entry in taken.entries:
        own = [frame[0] for frame in entry.frames if frame[1] == __file__]
        if own and own[0].endswith(function) and kind in ("", entry.kind):
            found.append(entry)
    return found


def count(taken: Snapshot, function: str) -> int:
    return sum(entry.stands_for for entry in entries_of(taken, function))


# Threads -----------------------------------------------------------------------------------------


def blocked_in_lock(lock: Any) -> None:
    lock.acquire()
    lock.release()


def blocked_in_sleep(until: threading.Event) -> None:
    while not until.is_set():
        time.sleep(0.05)


def blocked_in_queue(items: queue.Queue[None]) -> None:
    items.get()


@contextmanager
def planted(target: Callable[..., None], argument: Any, number: int) -> Iterator[None]:
    threads = [threading.Thread(target=target, args=(argument,)) for _ in range(number)]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(30)


def until_counted(take: Callable[..., Snapshot], function: str, number: int) -> Snapshot:
    """Take snapshots until as many are seen, and return the last."""
    deadline = time.monotonic() + 30
    while True:
        taken = take()
        if count(taken, function) == number or time.monotonic() > deadline:
            assert count(taken, function) == number
            return taken
        time.sleep(0.01)


def test_threads_are_counted_exactly(take: Callable[..., Snapshot]) -> None:
    lock, over, items = threading.Lock(), threading.Event(), queue.Queue[None]()
    lock.acquire()
    with (
        planted(blocked_in_lock, lock, 40),
        planted(blocked_in_queue, items, 7),
        planted(blocked_in_sleep, over, 3),
    ):
        try:
            until_counted(take, "blocked_in_lock", 40)
            until_counted(take, "blocked_in_queue", 7)
            taken = until_counted(take, "blocked_in_sleep", 3)
            assert count(taken, "blocked_in_lock") == 40
            assert {entry.state for entry in entries_of(taken, "blocked_in_queue")} == {"queue"}
            assert [e.state for e in taken.entries if e.name == "MainThread"] == ["running"]
            if sys.platform == "linux":
                assert all(entry.age_s is not None for entry in entries_of(taken, "in_lock"))
        finally:
            lock.release()
            over.set()
            for _ in range(7):
                items.put(None)
    assert count(take(), "blocked_in_lock") == 0


def test_what_the_kernel_says_is_the_state() -> None:
    if not has_extension() or sys.platform != "linux":
        pytest.skip("only the extension asks the kernel")
    lock = threading.Lock()
    lock.acquire()
    with planted(blocked_in_lock, lock, 2):
        try:
            deadline = time.monotonic() + 30
            states: set[str] = set()
            while states != {"lock"} and time.monotonic() < deadline:
                taken = until_counted(snapshot, "blocked_in_lock", 2)
                states = {entry.state for entry in entries_of(taken, "blocked_in_lock")}
            assert states == {"lock"} or states == {"waiting"}, states  # no /proc in a sandbox
        finally:
            lock.release()


def test_a_pool_worker_without_work_is_idle(take: Callable[..., Snapshot]) -> None:
    with ThreadPoolExecutor(1, thread_name_prefix="planted") as pool:
        pool.submit(int).result()
        deadline = time.monotonic() + 30
        states: list[str] = []
        while states != ["idle"] and time.monotonic() < deadline:
            states = [e.state for e in take().entries if e.name.startswith("planted")]
        assert states == ["idle"]


# asyncio -----------------------------------------------------------------------------------------


async def on_event(event: asyncio.Event) -> None:
    await event.wait()


async def on_future(future: asyncio.Future[None]) -> None:
    await future


async def on_queue(items: asyncio.Queue[None]) -> None:
    await items.get()


async def on_gather(event: asyncio.Event, number: int) -> None:
    await asyncio.gather(*(on_event(event) for _ in range(number)))


async def on_group(event: asyncio.Event, number: int) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(number):
            group.create_task(on_event(event))


async def on_nested(event: asyncio.Event, depth: int) -> None:
    if depth:
        await asyncio.create_task(on_nested(event, depth - 1))
    else:
        await event.wait()


async def items_of_nothing(event: asyncio.Event) -> AsyncIterator[None]:
    await event.wait()
    yield


async def on_generator(event: asyncio.Event) -> None:
    async for _ in items_of_nothing(event):
        pass


async def look(take: Callable[..., Snapshot], tasks: list[asyncio.Task[Any]]) -> Snapshot:
    """Take a snapshot once every task has begun and waits."""
    for _ in range(20):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)
    return take()


def run_on_loop(main: Callable[[], Any], kind: str) -> Any:
    if kind == "uvloop":
        uvloop = pytest.importorskip("uvloop")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main())
    return asyncio.run(main())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_tasks_are_counted_exactly(take: Callable[..., Snapshot], loop: str) -> None:
    async def main() -> Snapshot:
        event, items = asyncio.Event(), asyncio.Queue[None]()
        future = asyncio.get_running_loop().create_future()
        made: list[Any] = [on_event(event) for _ in range(30)]
        made += [on_future(future) for _ in range(11)]
        made += [on_queue(items) for _ in range(6)]
        made += [on_gather(event, 5), on_gather(event, 5), on_group(event, 4)]
        made += [on_nested(event, 3), on_generator(event)]
        tasks = [asyncio.create_task(one) for one in made]
        try:
            return await look(take, tasks)
        finally:
            event.set()
            future.set_result(None)
            for _ in range(6):
                items.put_nowait(None)
            await asyncio.gather(*tasks)

    taken = run_on_loop(main, loop)
    assert count(taken, "on_event") == 30 + 5 + 5 + 4
    assert count(taken, "on_future") == 11
    assert count(taken, "on_queue") == 6
    assert count(taken, "on_gather") == 2
    assert count(taken, "on_group") == 1
    assert count(taken, "on_nested") == 4
    assert count(taken, "items_of_nothing") == 1  # below it: on_generator
    assert not taken.is_sampled
    assert {entry.state for entry in entries_of(taken, "on_queue")} == {"queue"}
    assert {entry.state for entry in entries_of(taken, "on_future")} == {"future"}
    assert {entry.state for entry in entries_of(taken, "on_gather")} == {"gather"}
    (generator,) = entries_of(taken, "items_of_nothing")
    assert any(frame[0] == "on_generator" for frame in generator.frames)
    below_gather = [
        entry
        for entry in entries_of(taken, "on_event")
        if any(frame[0] == "on_gather" for frame in entry.frames)
    ]
    assert len(below_gather) == 10, "those who are awaited stand on those who await them"
    assert all(len(entry.awaited_by) == 1 for entry in below_gather)
    deepest = max(entries_of(taken, "on_nested"), key=lambda entry: len(entry.awaited_by))
    assert len(deepest.awaited_by) == 3
    (running,) = [e for e in taken.entries if e.kind == "task" and e.state == "running"]
    assert any(frame[0].endswith("main") for frame in running.frames)


def test_an_eager_task_is_counted(take: Callable[..., Snapshot]) -> None:
    factory = getattr(asyncio, "eager_task_factory", None)
    if factory is None:
        pytest.skip("eager tasks are of 3.12 and newer")

    async def main() -> Snapshot:
        asyncio.get_running_loop().set_task_factory(factory)
        event = asyncio.Event()
        tasks = [asyncio.create_task(on_event(event)) for _ in range(9)]
        try:
            return await look(take, tasks)
        finally:
            event.set()
            await asyncio.gather(*tasks)

    assert count(asyncio.run(main()), "on_event") == 9


def test_tasks_of_another_threads_loop_are_counted(take: Callable[..., Snapshot]) -> None:
    ready, over = threading.Event(), threading.Event()

    async def main() -> None:
        event = asyncio.Event()
        tasks = [asyncio.create_task(on_event(event)) for _ in range(5)]
        await asyncio.sleep(0)
        ready.set()
        await asyncio.to_thread(over.wait, 30)
        event.set()
        await asyncio.gather(*tasks)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        assert ready.wait(30)
        until_counted(take, "on_event", 5)
    finally:
        over.set()
        thread.join(30)


def test_of_too_many_a_part_stands_for_all(take: Callable[..., Snapshot]) -> None:
    async def main() -> tuple[Snapshot, int]:
        event, items = asyncio.Event(), asyncio.Queue[None]()
        tasks: list[Any] = [asyncio.create_task(on_event(event)) for _ in range(900)]
        tasks += [asyncio.create_task(on_queue(items)) for _ in range(100)]
        taken = await look(lambda: take(max_read=200), tasks)
        event.set()
        for _ in range(100):
            items.put_nowait(None)
        await asyncio.gather(*tasks)
        return taken, len(tasks) + 1

    taken, number = asyncio.run(main())
    assert taken.is_sampled
    assert taken.total("task") == number
    assert len([entry for entry in taken.entries if entry.kind == "task"]) == 200
    assert count(taken, "on_event") == pytest.approx(900, abs=100)  # 4.7 standard deviations


def test_labels_names_and_age_of_tasks(take: Callable[..., Snapshot]) -> None:
    async def main() -> tuple[Snapshot, Snapshot]:
        event = asyncio.Event()
        with conprof.labels(job="invoice"):
            task = asyncio.create_task(on_event(event), name="the one")
        first = await look(take, [task])
        second = await look(take, [task])
        event.set()
        await task
        return first, second

    first, second = asyncio.run(main())
    (before,), (after,) = entries_of(first, "on_event"), entries_of(second, "on_event")
    assert before.name == "the one"
    assert before.labels == (("job", "invoice"),)
    assert before.age_s is None
    assert after.age_s is not None
    assert 0 <= after.age_s < 60


def test_snapshots_while_tasks_come_and_go(take: Callable[..., Snapshot]) -> None:
    """No exception, no impossible stack: every task's stack begins at its own function."""
    over = threading.Event()
    made = 0

    async def short(depth: int) -> None:
        if depth:
            await short(depth - 1)
        await asyncio.sleep(0)

    async def main() -> None:
        nonlocal made
        while not over.is_set():
            await asyncio.gather(*(short(depth) for depth in range(20)))
            made += 20

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        seen = 0
        deadline = time.monotonic() + 30
        taken = 0
        while (taken < 50 or seen < 50 or made < 500) and time.monotonic() < deadline:
            taken += 1
            for entry in take().entries:
                names = [frame[0].rpartition(".")[2] for frame in entry.frames]
                if entry.kind == "task" and "short" in names:
                    seen += 1
                    assert names[-1] == "[asyncio task]"
                    assert names.count("short") <= 20
    finally:
        over.set()
        thread.join(30)
    assert (min(seen, 50), min(made, 500)) == (50, 500), "the premise: there was what can tear"
    assert not thread.is_alive()


# Greenlets ---------------------------------------------------------------------------------------

GREENLETS = """
import gevent, gevent.event, gevent.pool, gc
from conprof_core._engine.tasks import snapshot

event = gevent.event.Event()

def planted():
    event.wait()

def sleeper():
    gevent.sleep(60)

greenlets = [gevent.spawn(planted) for _ in range(25)] + [gevent.spawn(sleeper) for _ in range(5)]
gevent.sleep(0)
taken = snapshot()
def count(name):
    return [e for e in taken.entries if name in [f[0] for f in e.frames] and e.kind == "greenlet"]
assert len(count("planted")) == 25, taken.total("greenlet")
assert len(count("sleeper")) == 5
assert {e.state for e in count("sleeper")} == {"sleep"}
fresh = [gevent.spawn(planted) for _ in range(3)]
assert len([e for e in snapshot().entries if e.state == "created"]) == 3
gevent.joinall(fresh, timeout=0.01)
event.set()
gevent.joinall([g for g in greenlets + fresh if not g.dead][:25], timeout=5)
gevent.killall(greenlets)
del greenlets, fresh
assert not [e for e in snapshot().entries if any(f[0] == "planted" for f in e.frames)]
print("fine")
"""


@pytest.mark.leaves_process
@pytest.mark.parametrize("patched", [False, True])
def test_greenlets_are_counted_exactly(patched: bool) -> None:
    pytest.importorskip("gevent")
    first = "from gevent import monkey; monkey.patch_all()\n" if patched else ""
    assert "fine" in run_script(first + GREENLETS).stdout


# Text --------------------------------------------------------------------------------------------


def test_text_for_people_and_tools(take: Callable[..., Snapshot]) -> None:
    lock = threading.Lock()
    lock.acquire()
    with planted(blocked_in_lock, lock, 3):
        try:
            taken = until_counted(take, "blocked_in_lock", 3)
        finally:
            lock.release()
    grouped, listed, data = debug1(taken), debug2(taken), to_json(taken)
    assert grouped.startswith(f"goroutine profile: total {taken.total()}\n")
    assert listed.startswith("goroutine 1 [running")
    assert listed.count("\ngoroutine ") == len(taken.entries) - 1
    assert listed.count("blocked_in_lock(...)\n\t") == 3
    assert data["total"] == taken.total() == sum(group["count"] for group in data["groups"])


def test_a_snapshot_leaves_nothing_behind(take: Callable[..., Snapshot]) -> None:
    async def main() -> None:
        event = asyncio.Event()
        tasks = [asyncio.create_task(on_event(event)) for _ in range(5)]
        await look(take, tasks)
        event.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    gc.collect()
    left = [one for one in gc.get_objects() if isinstance(one, asyncio.Task)]
    assert left == []
