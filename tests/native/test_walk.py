"""The walk: every frame, its line and its place, whatever ran; and what bounds it."""

from __future__ import annotations

import hashlib
import linecache
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

import conprof_core
from conprof_core import _native
from conprof_core._engine import Row
from conprof_core.testing import Captured, capture

pytestmark = pytest.mark.native_core


def burn(cpu_s: float) -> None:
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(500))


def names(row: Row) -> list[str]:
    return [frame[0].rpartition(".")[2] for frame in row.frames]


def heaviest(captured: Captured, function: str) -> Row:
    rows = [row for row in captured.rows if function in names(row)]
    assert rows, [names(row) for row in captured.rows]
    return max(rows, key=lambda row: row.cpu_ns)


def test_lines_are_those_that_run() -> None:
    def two_places() -> None:
        burn(0.1)
        burn(0.3)

    with capture(cpu_profile_rate=1000) as captured:
        two_places()
    lines: dict[str, int] = {}
    for row in captured.rows:
        for name, filename, line, start in row.frames:
            if name.endswith("two_places"):
                source = linecache.getline(filename, line).strip()
                lines[source] = lines.get(source, 0) + row.cpu_ns
                assert start == two_places.__code__.co_firstlineno
    assert set(lines) == {"burn(0.1)", "burn(0.3)"}
    assert 0.15 < lines["burn(0.1)"] / sum(lines.values()) < 0.35


def generator() -> Iterator[int]:
    while True:
        burn(0.01)
        yield 1


async def numbers() -> AsyncIterator[int]:
    for _ in range(20):
        burn(0.01)
        yield 1


async def consume() -> None:
    async for _ in numbers():
        pass


def drive(coroutine: Callable[[], object]) -> None:
    try:
        coroutine().send(None)  # type: ignore[attr-defined]
    except StopIteration:
        pass


def through_c(cpu_s: float) -> None:
    # C code between: sorted() calls the key function, map() the lambda.
    sorted(list(map(lambda s: burn(s) or s, [cpu_s])), key=lambda s: burn(s))  # noqa: C414,C417


class Made:
    def __init__(self) -> None:
        burn(0.2)

    def __del__(self) -> None:
        burn(0.1)


def outer_of_generator() -> None:
    it = generator()
    for _ in range(20):
        next(it)


def raising(depth: int) -> None:
    try:
        if depth:
            raising(depth - 1)
        else:
            raise KeyError
    except KeyError:
        burn(0.02)
        if depth < 9:
            raise


@pytest.mark.parametrize(
    ("call", "stack"),
    [
        (outer_of_generator, ["burn", "generator", "outer_of_generator"]),
        (lambda: drive(consume), ["burn", "numbers", "consume", "drive"]),
        (lambda: through_c(0.2), ["burn", "<lambda>", "through_c"]),
        (lambda: Made(), ["burn", "__init__"]),
        (lambda: Made(), ["burn", "__del__"]),
        (lambda: raising(9), ["burn", "raising"]),
        (lambda: exec("burn(0.2)", {"burn": burn}), ["burn", "<module>"]),
    ],
    ids=["generator", "async generator", "through C", "init", "finalizer", "exception", "exec"],
)
def test_stacks(call: Callable[[], object], stack: list[str]) -> None:
    with capture(cpu_profile_rate=1000) as captured:
        call()
    chains = [names(row) for row in captured.rows if "test_stacks" in names(row)]
    assert any(chain[: len(stack)] == stack for chain in chains), chains
    # Nobody is cut off from the root, and the shim below __init__ is not shown twice.
    assert all("pytest_pyfunc_call" in " ".join(chain) for chain in chains), chains
    assert all(chain.count("__init__") <= 1 for chain in chains if chain[0] == "burn"), chains


@pytest.mark.parametrize("depth", [1500, 40_000])
def test_a_deep_stack_keeps_both_ends(depth: int) -> None:
    def deeper(n: int) -> None:
        if n:
            deeper(n - 1)
        else:
            burn(0.3)

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(2 * depth)
    try:
        with capture(cpu_profile_rate=1000) as captured:
            deeper(depth)
    finally:
        sys.setrecursionlimit(limit)
    row = heaviest(captured, "deeper")
    assert len(row.frames) == 192 + 1 + 64
    assert names(row)[0] == "burn"
    assert names(row)[192] == "[truncated]"
    assert "<module>" in names(row)[-1] or "_run_code" in " ".join(names(row)[-3:])
    assert _native.stats()["truncated"] > 0


def test_a_stack_too_deep_to_be_walked_says_so() -> None:
    def deeper(n: int) -> None:
        if n:
            deeper(n - 1)
        else:
            burn(0.3)

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(80_000)
    try:
        with capture(cpu_profile_rate=100) as captured:
            deeper(70_000)
    finally:
        sys.setrecursionlimit(limit)
    row = heaviest(captured, "burn")
    assert len(row.frames) == 192 + 1
    assert names(row)[-1] == "[truncated]"


def test_work_without_the_gil_has_its_stack_and_labels() -> None:
    """There the thread's state is not attached, and all of it is read through the kernel."""

    def hash_without_gil(cpu_s: float) -> None:
        until = time.thread_time() + cpu_s
        while time.thread_time() < until:
            hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 100_000)

    def below(depth: int) -> None:
        if depth:
            below(depth - 1)
        else:
            hash_without_gil(0.5)

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        with capture(cpu_profile_rate=1000) as captured:
            for tenant, depth in (("a", 150), ("b", 15_000)):
                with conprof_core.labels(tenant=tenant):
                    below(depth)  # more frames than one chunk holds
    finally:
        sys.setrecursionlimit(limit)
    for tenant in ("a", "b"):
        rows = [row for row in captured.rows if row.labels == (("tenant", tenant),)]
        hashed = [row for row in rows if "hash_without_gil" in names(row)]
        assert sum(row.cpu_ns for row in hashed) > 0.45e9
        assert all("pytest_pyfunc_call" in " ".join(names(row)) for row in hashed)
        assert all(names(row).count("below") == 151 for row in hashed if tenant == "a")


def test_a_chain_of_coroutines_that_changes_at_both_ends() -> None:
    """Frames outside the chunks are read where the walk before met them; what is there is new."""

    async def down(depth: int, turns: int) -> None:
        if depth:
            await down(depth - 1, turns)
        else:
            for _ in range(turns):
                burn(0.004)

    async def other(depth: int) -> None:
        await down(depth, 5)

    with capture(cpu_profile_rate=1000) as captured:
        for depth in (*range(3, 60, 4), *range(120, 3, -9)):
            drive(lambda depth=depth: other(depth) if depth % 2 else down(depth, 5))
    seen = set()
    for row in captured.rows:
        chain = names(row)
        if "down" in chain and chain[0] == "burn":
            inner = len(chain) - chain[::-1].index("down") - chain.index("down")
            assert chain.count("down") == inner, "nothing stands between"
            seen.add(inner - 1)
            assert ("other" in chain) == ((inner - 1) % 2 == 1)
    assert len(seen) > 15


def test_code_that_dies_is_still_named() -> None:
    """Each function dies before the window is encoded, and its memory is used again."""
    with capture(cpu_profile_rate=1000) as captured:
        for i in range(200):
            space: dict[str, object] = {"burn": burn}
            exec(
                compile(f"def short_lived_{i % 50}():\n  burn(0.004)", f"made_{i % 50}", "exec"),
                space,
            )
            space[f"short_lived_{i % 50}"]()  # type: ignore[operator]
            space.clear()
    for row in captured.rows:
        for name, filename, line, _ in row.frames:
            if name.startswith("short_lived_"):
                assert filename == "made_" + name.removeprefix("short_lived_")
                assert line == 2
    seen = {name for row in captured.rows for name in names(row) if "short_lived" in name}
    assert len(seen) > 30, "the premise: many of them were sampled"


def test_names_beyond_ascii() -> None:
    space: dict[str, object] = {"burn": burn}
    exec(compile("def größe_名_x():\n  burn(0.1)", "dätei_名.py", "exec"), space)
    exec(compile("def é():\n  burn(0.1)", "ASCII.py", "exec"), space)
    with capture(cpu_profile_rate=1000) as captured:
        space["größe_名_x"]()  # type: ignore[operator]
        space["é"]()  # type: ignore[operator]
    assert heaviest(captured, "größe_名_x").frames[1][1] == "dätei_名.py"
    assert heaviest(captured, "é").frames[1][1] == "ASCII.py"


def test_threads_sum_up_to_the_process() -> None:
    def work(cpu_s: float) -> None:
        burn(cpu_s)

    began = time.process_time()
    with capture() as captured:
        for _ in range(20):
            threads = [threading.Thread(target=work, args=(0.003,)) for _ in range(10)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    used = (time.process_time() - began) * 1e9
    assert 0.97 < captured.cpu_ns() / used <= 1.001
    assert captured.cpu_ns(f"{work.__qualname__}") >= 0.99 * 200 * 0.003e9


def test_more_stacks_than_the_table_holds_are_counted_and_charged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from conprof_core import _engine
    from conprof_core._engine.native import NativeEngine

    engine = NativeEngine()
    settings = _engine.EngineSettings(
        rate_hz=1000, period_s=1000.0, max_stacks=3, on_terminate=lambda: None
    )
    began = time.process_time()
    engine.start(settings, lambda: 1000.0)
    for i in range(40):
        space: dict[str, object] = {"burn": burn}
        exec(f"def stack_{i}():\n  burn(0.01)", space)
        space[f"stack_{i}"]()  # type: ignore[operator]
    engine.stop()
    used = (time.process_time() - began) * 1e9
    window = engine.take_window()
    assert window.counters["stack_table_full"] > 0
    overflow = [row for row in window.rows() if names(row) == ["[stack table full]"]]
    assert len(overflow) == 1
    assert abs(window.cpu_ns - used) < 0.03 * used + 10e6
