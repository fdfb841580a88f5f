"""Programs that push and pop frames in every way that CPython has, and know their own results.

Each runs until the deadline and returns how often it went round; it raises when a result is wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import importlib
import re
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

__all__ = ["PROGRAMS", "Unavailable"]


class Unavailable(Exception):  # noqa: N818 - a state, not an error
    """What the program is about is not part of this Python."""


def check(is_right: bool) -> None:
    if not is_right:
        raise AssertionError("the program's own result is wrong")


def again(until: float, once: Callable[[], None]) -> int:
    """Once at least: the first time may load a library."""
    count = 0
    while count == 0 or time.monotonic() < until:
        once()
        count += 1
    return count


class Node:
    """A path of nodes, each with the name that its depth gives it."""

    def __init__(self, depth: int) -> None:
        self.name = f"n{depth}"
        self.children = [Node(depth - 1)] if depth else []


def tree_walk(until: float) -> int:
    tree = Node(250)

    def visit(node: Node, seen: tuple[str, ...]) -> int:
        if any(name == node.name for name in seen):
            return 0
        return 1 + sum([visit(child, seen) for child in node.children])

    return again(until, lambda: check(visit(tree, ("a", "b")) == 251))


def generators(until: float) -> int:
    def counting(limit: int) -> Generator[int, int | None, str]:
        try:
            for number in range(limit):  # noqa: UP028 - a frame that stands at its own yield
                yield number
        except KeyError:
            yield -1
        return "end"

    def through(depth: int) -> Generator[int, int | None, str]:
        if depth:
            return (yield from through(depth - 1))
        return (yield from counting(3))

    def once() -> None:
        check(list(through(40)) == [0, 1, 2])
        running = through(20)
        check(next(running) == 0 and running.throw(KeyError) == -1)
        running.close()
        check(sum(x for x in (y + 1 for y in (z for z in range(20)))) == 210)
        for _ in range(20):
            next(counting(1))

    return again(until, once)


def coroutines(until: float) -> int:
    async def deep(depth: int) -> int:
        if depth:
            return 1 + await deep(depth - 1)
        await asyncio.sleep(0)
        return 0

    async def main() -> int:
        count = 0
        while time.monotonic() < until:
            found = await asyncio.gather(*(deep(depth) for depth in (0, 1, 20, 200)))
            check(found == [0, 1, 20, 200])
            late = asyncio.create_task(asyncio.sleep(60))
            await asyncio.sleep(0)
            late.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await late
            count += 1
        return count

    return asyncio.run(main())


def async_generators(until: float) -> int:
    async def numbers(limit: int) -> AsyncIterator[int]:
        for number in range(limit):
            if number % 3 == 0:
                await asyncio.sleep(0)
            yield number

    async def doubled(source: AsyncIterator[int]) -> AsyncIterator[int]:
        async for number in source:
            yield 2 * number

    async def main() -> int:
        count = 0
        while time.monotonic() < until:
            check([n async for n in doubled(doubled(numbers(10)))] == [4 * n for n in range(10)])
            check({n async for n in numbers(4)} == {0, 1, 2, 3})
            left: Any = numbers(5)
            check(await left.__anext__() == 0)
            await left.aclose()
            count += 1
        return count

    return asyncio.run(main())


def comprehensions(until: float) -> int:
    def once() -> None:
        rows = [[column * row for column in range(8)] for row in range(8)]
        check(sum(sum(row) for row in rows) == 784)
        check({key: [value + 0 for value in range(key)] for key in range(6)}[5] == [0, 1, 2, 3, 4])
        check(len({(x, y) for x in range(5) for y in range(5) if all(z != x for z in (y,))}) == 20)
        check([(lambda: value)() for value in range(3)] == [0, 1, 2])

    return again(until, once)


def recursion(until: float) -> int:
    limit = sys.getrecursionlimit() - 300

    def down(depth: int) -> int:
        return 1 + down(depth - 1) if depth else 0

    def through_c(depth: int) -> int:
        return 1 + max(map(through_c, (depth - 1,))) if depth else 0

    def for_ever() -> None:
        for_ever()

    def once() -> None:
        check(down(limit) == limit and through_c(60) == 60)
        with contextlib.suppress(RecursionError):
            for_ever()

    return again(until, once)


def exceptions(until: float) -> int:
    def fail(depth: int) -> None:
        try:
            if not depth:
                raise ValueError("at the bottom")
            fail(depth - 1)
        finally:
            str(depth)

    @contextlib.contextmanager
    def around() -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise KeyError from error

    def once() -> None:
        kept = []
        for depth in (1, 30):
            try:
                with around():
                    fail(depth)
            except KeyError as error:
                kept.append(error)
        deepest, frames = kept[-1].__cause__, 0
        trace = deepest.__traceback__ if deepest is not None else None
        while trace is not None:
            frames += 1
            check(trace.tb_frame.f_code is not None)
            trace = trace.tb_next
        check(frames == 33)

    return again(until, once)


def threads(until: float) -> int:
    lock = threading.Lock()
    total = [0]

    def work() -> None:
        found = sum(x for x in range(300))
        with lock:
            total[0] += found

    def once() -> None:
        total[0] = 0
        workers = [threading.Thread(target=work) for _ in range(6)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        check(total[0] == 6 * 44850)

    return again(until, once)


def short_functions(until: float) -> int:
    source = "def f{0}(x):\n    return (lambda y: [y for y in (y,)])(x)\nfound = f{0}({0})\n"

    def once() -> None:
        for number in range(10):
            names: dict[str, Any] = {}
            exec(compile(source.format(number), f"<text {number}>", "exec"), names)
            check(names["found"] == [number])

    return again(until, once)


def callbacks(until: float) -> int:
    class Item:
        def __init__(self, value: int) -> None:
            self.value = value

        def __lt__(self, other: Item) -> bool:
            return self.value < other.value

        def __del__(self) -> None:
            died.append(self.value)

        @property
        def square(self) -> int:
            return self.value * self.value

    died: list[int] = []

    def once() -> None:
        died.clear()
        items = [Item(value) for value in (3, 1, 2)]
        seen: list[int] = []
        references = [weakref.ref(item, lambda _: seen.append(1)) for item in items]
        check([item.value for item in sorted(items)] == [1, 2, 3])
        check(sorted(range(9), key=lambda x: -x)[0] == 8)
        check(sum(map(lambda x: x + 1, filter(lambda x: x % 2, range(20)))) == 110)  # noqa: C417
        check(re.sub(r"\d", lambda found: str(int(found[0]) + 1), "a1b2") == "a2b3")
        check(functools.reduce(lambda a, b: a + b, (item.square for item in items)) == 14)
        del items
        check(len(references) == len(seen) == len(died) == 3)

    return again(until, once)


def large_frames(until: float) -> int:
    """Frames that are larger than a chunk, and calls from them."""
    names = [f"v{number}" for number in range(2500)]
    text = "def large(depth):\n" + "".join(f"    {name} = depth\n" for name in names)
    text += f"    return (large(depth - 1) if depth else 0) + {names[-1]}\n"
    space: dict[str, Any] = {}
    exec(text, space)

    def once() -> None:
        check(space["large"](5) == 15)
        check(sum(space["large"](0) for _ in range(2)) == 0)
        gc.collect(0)

    return again(until, once)


def greenlets(until: float) -> int:
    try:
        from greenlet import getcurrent, greenlet
    except ImportError:
        raise Unavailable("no greenlet") from None

    def worker(depth: int) -> int:
        if depth:
            return worker(depth - 1)
        total, parent = 0, getcurrent().parent
        for number in range(5):
            total += parent.switch(n for n in (number,))
        return total

    def once() -> None:
        running = [greenlet(worker) for _ in range(4)]
        for number, one in enumerate(running):
            check(next(one.switch(10 * number)) == 0)
        for value in range(1, 6):
            for one in running:
                one.switch(value)
        check(all(one.dead for one in running))

    return again(until, once)


def gevent_pool(until: float) -> int:
    try:
        import gevent
        from gevent.pool import Pool
    except ImportError:
        raise Unavailable("no gevent") from None

    def work(number: int) -> int:
        gevent.sleep(0)
        return sum(x for x in range(number))

    def once() -> None:
        check(Pool(10).map(work, range(30)) == [n * (n - 1) // 2 for n in range(30)])

    return again(until, once)


def subinterpreters(until: float) -> int:
    interpreters: Any
    try:
        name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
        interpreters = importlib.import_module(name)
    except ImportError:
        raise Unavailable("no subinterpreters") from None
    code = "def f(n):\n    return sum(f(x - 1) for x in (n,)) + 1 if n else 0\nassert f(30) == 30\n"

    def once() -> None:
        other = interpreters.create()
        for _ in range(5):
            failed = interpreters.run_string(other, code)
            check(failed is None)
            check(sum(x for x in range(100)) == 4950)
        interpreters.destroy(other)

    return again(until, once)


PROGRAMS: dict[str, Callable[[float], int]] = {
    program.__name__: program
    for program in (
        tree_walk,
        generators,
        coroutines,
        async_generators,
        comprehensions,
        recursion,
        exceptions,
        threads,
        short_functions,
        callbacks,
        large_frames,
        greenlets,
        gevent_pool,
        subinterpreters,
    )
}
