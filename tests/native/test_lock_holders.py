"""Who holds the lock that a thread or task waits for, and where, in a snapshot."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import pytest

from conprof_core import _native as native
from conprof_core._engine.tasks import Entry, Snapshot, snapshot
from conprof_core._tasks_text import debug2, to_json

pytestmark = pytest.mark.native_core

needs_addresses = pytest.mark.skipif(
    sys.version_info >= (3, 14), reason="from 3.14 on which lock a thread wants is not to be seen"
)


def waits(lock: Any) -> None:
    with lock:
        pass


def holds(lock: Any, ready: threading.Event, over: threading.Event) -> None:
    with open("/dev/null"), lock:
        try:
            ready.set()
            over.wait(60)
        finally:
            ready.clear()


def holds_deeper(lock: Any, ready: threading.Event, over: threading.Event) -> None:
    with lock:
        inner(ready, over)


def inner(ready: threading.Event, over: threading.Event) -> None:
    with threading.Lock():
        ready.set()
        for _ in [1]:
            sorted([1, 2], key=lambda number: number if over.wait(60) else 0)


def holds_by_hand(lock: Any, ready: threading.Event, over: threading.Event) -> None:
    lock.acquire()
    ready.set()
    over.wait(60)
    lock.release()


def entry_of(taken: Snapshot, function: str) -> Entry:
    (found,) = [
        entry
        for entry in taken.entries
        if any(frame[0].endswith(function) and frame[1] == __file__ for frame in entry.frames)
    ]
    return found


@contextmanager
def contended(holder: Callable[..., None], lock: Any) -> Iterator[Entry]:
    """Yield the entry of a thread that is seen waiting for the lock that another one holds."""
    ready, over = threading.Event(), threading.Event()
    holding = threading.Thread(target=holder, args=(lock, ready, over), name="the holder")
    waiting = threading.Thread(target=waits, args=(lock,), name="the waiter")
    holding.start()
    try:
        assert ready.wait(30)
        waiting.start()
        deadline = time.monotonic() + 30
        entry = None
        while time.monotonic() < deadline:
            seen = [one for one in snapshot().entries if one.name == "the waiter"]
            if seen and seen[0].state == "lock":
                entry = seen[0]
                break
            time.sleep(0.01)
        if entry is None:
            pytest.skip("the kernel does not tell what a thread waits for")
        yield entry
    finally:
        over.set()
        holding.join(30)
        waiting.join(30)


@needs_addresses
@pytest.mark.parametrize("holder", [holds, holds_deeper])
@pytest.mark.parametrize("kind", ["Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore"])
def test_who_holds_a_threads_lock(kind: str, holder: Callable[..., None]) -> None:
    with contended(holder, getattr(threading, kind)()) as entry:
        assert entry.held_by == ("thread the holder",)
        assert entry.held_at is not None
        assert entry.held_at[:2] == (holder.__name__, __file__)


def test_who_holds_by_hand_is_not_recorded() -> None:
    with contended(holds_by_hand, threading.Lock()) as entry:
        assert entry.held_by == ()
        taken = Snapshot(0, 0, (entry,))
        assert "waits for a lock; who holds it is not recorded" in debug2(taken)


class Guarded:
    """Its lock is found from the method that waits, and no code of it runs."""

    shared = threading.RLock()

    def __init__(self) -> None:
        self.own = threading.RLock()

    def __getattribute__(self, name: str) -> Any:
        assert sys._getframe(1).f_globals is globals(), "somebody else asked"
        return super().__getattribute__(name)

    def acquire_own(self) -> None:
        self.own.acquire()

    def acquire_shared(self) -> None:
        self.shared.acquire()


GLOBAL = threading.RLock()


@needs_addresses
@pytest.mark.parametrize("kind", ["own", "shared", "global", "local"])
def test_an_rlock_knows_who_took_it_by_hand(kind: str) -> None:
    guarded, local = Guarded(), threading.RLock()

    class ByHand:
        """As a lock to the helpers: how it is taken is what differs."""

        def acquire(self) -> None:
            if kind == "own":
                guarded.acquire_own()
            elif kind == "shared":
                guarded.acquire_shared()
            elif kind == "global":
                GLOBAL.acquire()
            else:
                local.acquire()

        def release(self) -> None:
            {"own": guarded.own, "shared": guarded.shared, "global": GLOBAL, "local": local}[
                kind
            ].release()

        def __enter__(self) -> None:
            self.acquire()

        def __exit__(self, *exc: object) -> None:
            self.release()

    with contended(holds_by_hand, ByHand()) as entry:
        assert entry.held_by == ("thread the holder",)
        assert entry.held_at is not None, "where it stands now"


@needs_addresses
def test_who_waits_in_a_condition_does_not_hold_its_lock() -> None:
    condition = threading.Condition()
    over = threading.Event()

    def waits_for_a_sign() -> None:
        with condition:
            condition.wait(60)

    sleeper = threading.Thread(target=waits_for_a_sign)
    sleeper.start()
    try:
        while not condition._waiters:  # type: ignore[attr-defined]
            time.sleep(0.001)
        with contended(holds, condition) as entry:
            assert entry.held_by == ("thread the holder",)
    finally:
        over.set()
        with condition:
            condition.notify_all()
        sleeper.join(30)


@needs_addresses
def test_text_and_rows_name_the_place() -> None:
    with contended(holds, threading.Lock()) as entry:
        taken = Snapshot(0, 0, (entry,))
        listed, data = debug2(taken), to_json(taken)
        (row,) = taken.rows()
    assert f"waits for a lock held by thread the holder at holds ({__file__}:" in listed
    assert data["groups"][0]["held_by"] == ["thread the holder"]
    assert dict(row.labels)["lock.held_at"].startswith(f"holds ({__file__}:")


@pytest.mark.parametrize("kind", ["Lock", "Semaphore", "BoundedSemaphore", "Condition"])
def test_who_holds_a_tasks_lock(kind: str) -> None:
    async def holder(lock: Any, over: asyncio.Event) -> None:
        async with lock:
            await over.wait()

    async def waiter(lock: Any) -> None:
        async with lock:
            pass

    async def main() -> Snapshot:
        lock, over = getattr(asyncio, kind)(), asyncio.Event()
        tasks = [asyncio.create_task(holder(lock, over), name="first")]
        tasks += [asyncio.create_task(waiter(lock)) for _ in range(3)]
        for _ in range(10):
            await asyncio.sleep(0)
        taken = snapshot()
        over.set()
        await asyncio.gather(*tasks)
        return taken

    taken = asyncio.run(main())
    waiting = [one for one in taken.entries if "waiter" in str(one.frames)]
    assert [one.state for one in waiting] == ["lock"] * 3
    for one in waiting:
        assert one.held_by == ("task first",)
        assert one.held_at is not None
        assert one.held_at[0].endswith("holder")
    assert entry_of(taken, "holder").held_by == ()


class Manager:
    """A context manager of the application: never looked at."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        raise AssertionError("code of the application ran")

    __eq__ = __hash__ = __repr__ = __getattr__  # type: ignore[assignment]


def test_blocks_of_a_frame() -> None:
    """At every place of a function with all sorts of blocks, those around it, innermost first."""
    first, second, third = threading.Lock(), threading.RLock(), threading.Lock()
    types = (type(first), type(second))

    def here() -> list[object]:
        return native.with_blocks(sys._getframe(1), types)

    assert here() == []
    with first:
        assert here() == [first]
        with Manager(), second, third:
            assert here() == [third, second, first]
            try:
                assert [here() for _ in "ab"][1] in ([], [third, second, first])  # inlined: 3.12
                raise ValueError
            except ValueError:
                assert here() == [third, second, first]
            finally:
                assert here() == [third, second, first]
        assert here() == [first]
        for _ in range(2):
            with second:
                if here() == [second, first]:
                    continue
            raise AssertionError
    assert here() == []
    with ExitStack() as stack:
        stack.enter_context(first)  # a frame knows the stack, and not what it holds
        assert here() == []
    with pytest.raises(TypeError):
        native.with_blocks(first, types)
    with pytest.raises(TypeError):
        native.with_blocks(sys._getframe(), [type(first)])


def test_blocks_of_frames_that_do_not_run() -> None:
    lock = threading.Lock()
    types = (type(lock),)

    def generator() -> Iterator[int]:
        with lock:
            yield 1
            yield 2

    running = generator()
    assert native.with_blocks(running.gi_frame, types) == [], "it has not begun"  # type: ignore[attr-defined]
    next(running)
    frame = running.gi_frame  # type: ignore[attr-defined]
    assert native.with_blocks(frame, types) == [lock]
    running.close()  # type: ignore[attr-defined]
    assert native.with_blocks(frame, types) == [], "it has ended"
    assert native.first_local(frame, types) is None
