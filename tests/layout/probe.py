"""What the profile of a known program says, compared with the program: run with one build.

Prints one line of JSON: the engine, the reason if it is the portable one, and what is wrong. With
the portable engine only that it works is looked at.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator

import conprof_core as conprof
from conprof_core import _native as native
from conprof_core._config import load
from conprof_core._engine import Row
from conprof_core.cli._facts import collect
from conprof_core.testing import capture

WAIT_S = 0.6
BURN_S = 0.5
BLOCK_S = 0.25
KEPT = 20_000
KEPT_BYTES = 400

wrong: list[str] = []
truth: dict[str, float] = {}


def expect(is_so: bool, what: str) -> None:
    if not is_so:
        wrong.append(what)


def near(found: float, wanted: float, tolerance: float = 0.15) -> bool:
    return abs(found - wanted) <= tolerance * wanted


# ---- the program ----


def burn(name: str, seconds: float = BURN_S) -> None:
    began = time.thread_time()
    while time.thread_time() < began + seconds:
        sum(range(200))
    truth[name] = time.thread_time() - began


def items() -> Iterator[int]:
    burn("items")
    yield 1


def in_generators() -> None:
    for _ in (one for one in items()):
        pass


def in_sleep() -> None:
    time.sleep(WAIT_S)


def in_lock() -> None:
    lock = threading.Lock()
    with lock, conprof.labels(route="/lock"):
        lock.acquire(timeout=WAIT_S)


def contend() -> None:
    began, cpu = time.monotonic(), time.thread_time()
    while time.monotonic() < began + WAIT_S:
        sum(range(1000))
    waited = time.monotonic() - began - (time.thread_time() - cpu)
    truth["contend"] = truth.get("contend", 0.0) + waited


async def blocks() -> None:
    until = time.monotonic() + BLOCK_S
    while time.monotonic() < until:
        sum(range(100))


async def serve() -> None:
    for _ in range(200):
        await asyncio.sleep(0.02)
        if not is_native() or conprof.stats()["engine_stats"]["loops_watched"]:
            break
    await asyncio.sleep(0.2)
    loop = asyncio.get_running_loop()
    before = sys.getrefcount(loop)
    for _ in range(3):
        with conprof.labels(route="/block"):
            await asyncio.create_task(blocks())
        await asyncio.sleep(0.05)
    with conprof.labels(route="/wait"):
        await asyncio.sleep(WAIT_S)
    # What is borrowed is given back.
    expect(abs(sys.getrefcount(loop) - before) < 20, "the loop's reference count moved")


def hold() -> list[bytes]:
    return [bytes(KEPT_BYTES - bytes.__basicsize__) for _ in range(KEPT)]


def run_threads(*targets: Callable[[], None]) -> None:
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# ---- what is said of it ----


def is_native() -> bool:
    return bool(conprof.stats()["engine"] == "native")


def of(rows: list[Row], column: str, function: str, **labels: str) -> float:
    found = 0
    for row in rows:
        stands = any(frame[0].endswith(function) and frame[1] == __file__ for frame in row.frames)
        if stands and labels.items() <= dict(row.labels).items():
            found += getattr(row, column)
    return found / 1e9 if column.endswith("_ns") else found


def check_cpu(rows: list[Row]) -> None:
    for name in ("plain", "deep", "items"):
        function = {"plain": "burn", "deep": "burn", "items": "items"}[name]
        labels = {} if name == "items" else {"route": f"/{name}"}
        found = of(rows, "cpu_ns", function, **labels)
        expect(near(found, truth[name]), f"CPU of {name}: {found:.3f} of {truth[name]:.3f} s")
    expect(of(rows, "cpu_ns", "in_generators") > 0.8 * truth["items"], "the generators' caller")
    known = {function.__name__: function.__code__ for function in (burn, items, hold, contend)}
    for row in rows:
        for function, filename, line, start in row.frames:
            code = known.get(function) if filename == __file__ else None
            if code is None:
                continue
            wanted = {number for _, _, number in code.co_lines() if number}
            expect(start == code.co_firstlineno, f"{function} starts at {start}")
            expect(line in wanted or line == start, f"{function} at line {line}")
    roots = {row.frames[-1][0] for row in rows if row.cpu_ns and len(row.frames) > 1}
    expect("<module>" in roots, f"no stack ends at the module: {sorted(roots)[:5]}")


def check_waits(rows: list[Row]) -> None:
    for function in ("in_sleep", "in_lock"):
        found = of(rows, "wall_ns", function)
        expect(near(found, WAIT_S, 0.4), f"wall time of {function}: {found:.3f} of {WAIT_S} s")
    found = of(rows, "lock_wait_ns", "in_lock", route="/lock")
    expect(near(found, WAIT_S, 0.4), f"waits for the lock: {found:.3f} of {WAIT_S} s")
    found, waited = of(rows, "gil_wait_ns", "contend"), truth["contend"]
    expect(0.2 * waited < found < 1.2 * waited, f"waits for the GIL: {found:.3f} of {waited:.3f} s")
    blocked = of(rows, "loop_blocked_ns", "blocks", route="/block")
    expect(near(blocked, 3 * BLOCK_S, 0.5), f"blocked: {blocked:.3f} of {3 * BLOCK_S} s")
    count = of(rows, "loop_blocks", "blocks", route="/block")
    expect(count == 3, f"blocking callbacks: {count:g} of 3")
    found = of(rows, "wall_ns", "serve", route="/wait")
    expect(near(found, WAIT_S, 0.4), f"wall time of a suspended task: {found:.3f} of {WAIT_S} s")


def check_heap(rows: list[Row]) -> None:
    objects, size = of(rows, "inuse_objects", "hold"), of(rows, "inuse_bytes", "hold")
    expect(near(objects, KEPT, 0.2), f"live objects: {objects:g} of {KEPT}")
    expect(near(size, KEPT * KEPT_BYTES, 0.2), f"live bytes: {size:g} of {KEPT * KEPT_BYTES}")


def check_snapshot() -> None:
    """Reads frames of Python's own: what ``conprof tasks`` shows."""
    lock = threading.Lock()

    def holds(first: object) -> None:
        with lock:
            frame = sys._getframe()
            found = native.with_blocks(frame, (type(lock),))
            expect(len(found) == 1 and found[0] is lock, f"blocks of `with`: {found}")
            expect(native.first_local(frame, (dict,)) is first, "the first local variable")
            address = native.lock_address(lock)
            if address:
                found_lock = native.lock_search(frame, address, type(lock))
                expect(found_lock is lock, f"the lock searched for: {found_lock}")

    holds({})
    ready, over = threading.Event(), threading.Event()

    def waits() -> None:
        with conprof.labels(route="/facts"):
            ready.set()
            over.wait(30)

    thread = threading.Thread(target=waits)
    thread.start()
    ready.wait(30)
    facts = native.thread_facts([thread.ident or 0])
    over.set()
    thread.join()
    expect(list(facts) == [thread.ident], f"facts of a thread: {facts}")
    for native_id, _, _, cell, frames in facts.values():
        labels = dict(cell.labels.items()) if cell is not None else None
        expect(native_id == thread.native_id, f"native id {native_id} of {thread.native_id}")
        expect(labels == {"route": "/facts"}, f"labels of a thread: {labels}")
        expect(any(frame.f_code is waits.__code__ for frame in frames), "frames of a thread")


def program() -> object:
    """With labels in a context of few variables, and in one of many."""
    with conprof.labels(route="/plain"):
        burn("plain")
    in_generators()
    run_threads(in_sleep, in_lock)
    run_threads(contend, contend, contend)
    asyncio.run(serve())
    kept = hold()
    if is_native():
        check_snapshot()
    gc.collect()
    variables: list[contextvars.ContextVar[int]] = [
        contextvars.ContextVar(f"v{number}") for number in range(300)
    ]

    def within() -> None:
        for variable in variables:
            variable.set(1)
        with conprof.labels(route="/deep"):
            burn("deep")

    contextvars.copy_context().run(within)
    return kept


def main() -> None:
    """Profile the program, and compare."""
    with capture(
        profile_types=["cpu", "wall", "heap"], heap_sample_bytes=4096, cpu_profile_rate=200
    ) as captured:
        engine, reason = conprof.stats()["engine"], ""
        kept = program()
    del kept
    if engine == "native":
        check_cpu(captured.rows)
        check_waits(captured.rows)
        check_heap(captured.rows)
    else:
        reason = collect(load({}), send=False)["engine"]["reason"]
        expect(bool(reason), "the doctor has no reason")
        total = sum(row.cpu_ns for row in captured.rows) / 1e9
        expect(total > 0.8 * truth["plain"], f"the portable engine saw {total:.3f} s")
    said = {"engine": engine, "reason": reason, "wrong": sorted(set(wrong))}
    print(json.dumps(said | {"extension": native.__file__}))


if __name__ == "__main__":
    main()
