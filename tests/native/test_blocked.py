"""Callbacks that keep an event loop from all others: how long, where and under which route."""

from __future__ import annotations

import asyncio
import contextvars
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import conprof_core as conprof
from conprof_asgi import ConprofMiddleware
from conprof_core import _native
from conprof_core._engine import Row
from conprof_core.cli import main as cli
from conprof_core.testing import capture
from tests.support.process import run_script

pytestmark = pytest.mark.native_core

BLOCK_S = 0.2
TIMES = 6
Main = Callable[[], Coroutine[Any, Any, None]]


def compute(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(100))


def sit(seconds: float) -> None:
    time.sleep(seconds)


def run(kind: str, main: Main) -> None:
    if kind == "uvloop":
        factory = pytest.importorskip("uvloop").new_event_loop
    else:
        factory = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


async def until_watched() -> None:
    """Wait until a look has found the loop, and seen it wait."""
    for _ in range(500):
        await asyncio.sleep(0.02)
        if conprof.stats()["engine_stats"]["loops_watched"]:
            break
    assert conprof.stats()["engine_stats"]["loops_watched"], "the premise: it is watched"
    await asyncio.sleep(0.2)


def table(rows: list[Row]) -> list[tuple[float, int, str, str]]:
    """Return (seconds, blocks, innermost function of this file, route), longest first."""
    sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0])
    for row in rows:
        own = next((frame[0] for frame in row.frames if frame[1] == __file__), "")
        into = sums[own, dict(row.labels).get("http.route", "")]
        into[0] += row.loop_blocked_ns / 1e9
        into[1] += row.loop_blocks
    lines = [(seconds, int(blocks), *key) for key, (seconds, blocks) in sums.items() if seconds]
    return sorted(lines, reverse=True)


def blocked_s(rows: list[Row]) -> float:
    return sum(row.loop_blocked_ns for row in rows) / 1e9


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("block", [time.sleep, compute], ids=["sleep", "compute"])
def test_a_blocking_route_is_the_first_line(
    loop: str, block: Callable[[float], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    took: list[float] = []
    short: list[float] = []

    async def planted(request: Request) -> PlainTextResponse:
        began = time.monotonic()
        block(BLOCK_S)
        took.append(time.monotonic() - began)
        return PlainTextResponse("late")

    async def quick(request: Request) -> PlainTextResponse:
        began = time.monotonic()
        compute(0.01)
        short.append(time.monotonic() - began)
        return PlainTextResponse("soon")

    app = Starlette(routes=[Route("/planted/{n}", planted), Route("/quick/{n}", quick)])
    app.add_middleware(ConprofMiddleware)

    async def main() -> None:
        await until_watched()
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            for number in range(TIMES):
                for path in ("quick", "planted", "quick", "quick"):
                    await client.get(f"/{path}/{number}")
                    await asyncio.sleep(0.003)
        await asyncio.sleep(0.2)

    with capture(profile_types=[conprof.WALL]) as captured:
        run(loop, main)
        counted = conprof.stats()["engine_stats"]["loop_blocks"]
    assert len(took) == TIMES, "the premise: it was served"
    lines = table(captured.rows)
    for window in captured.windows:
        for profile in window.profiles:
            (tmp_path / f"{window.sequence}.{profile.name}.pb.gz").write_bytes(profile.pprof_gz)
    assert cli.main(["report", str(tmp_path), "--type", "loop_blocked"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[2].split() == ["blocked", "by", "http.route", "total", "blocks", "mean"]
    seconds, blocks, function, route = lines[0]
    assert function in printed[3]
    assert route in printed[3]
    name = "planted" if block is time.sleep else "compute"
    assert (function.rpartition(".")[2], route) == (name, "/planted/{n}")
    assert 0.6 * sum(took) < seconds < 1.5 * sum(took)
    assert blocks >= TIMES - 1
    assert counted >= blocks
    quick_s = sum(line[0] for line in lines if line[3] == "/quick/{n}")
    assert quick_s <= 2 * sum(each for each in short if each > 0.04)


def test_many_short_callbacks_in_one_turn_are_no_block() -> None:
    took: list[float] = []
    longest = [0.0]

    def callback() -> None:
        began = time.monotonic()
        compute(0.01)
        took.append(time.monotonic() - began)

    async def main() -> None:
        await until_watched()
        loop = asyncio.get_running_loop()
        began = time.monotonic()
        for _ in range(60):
            loop.call_soon(callback)
        await asyncio.sleep(0)
        longest[0] = time.monotonic() - began

    with capture(profile_types=[conprof.WALL]) as captured:
        run("asyncio", main)
    assert longest[0] > 0.5, "the premise: one turn, and a long one"
    # Less than the turn would be; on a busy machine a callback, or two, may be long themselves.
    assert blocked_s(captured.rows) < longest[0] / 2 + 2 * sum(each for each in took if each > 0.04)


def switches(tid: int) -> int:
    status = Path(f"/proc/self/task/{tid}/status").read_text()
    return sum(int(n) for n in re.findall(r"voluntary_ctxt_switches:\s+(\d+)", status))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_an_idle_loop_is_not_touched(loop: str) -> None:
    seen: dict[str, Any] = {}

    def serve() -> None:
        async def main() -> None:
            seen["tid"] = threading.get_native_id()
            seen["loop"] = asyncio.get_running_loop()
            seen["end"] = asyncio.Event()
            await seen["end"].wait()

        run(loop, main)

    with capture(profile_types=[conprof.WALL]) as captured:
        thread = threading.Thread(target=serve)
        thread.start()
        deadline = time.monotonic() + 20
        while "end" not in seen and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        if not thread.is_alive():
            pytest.skip("no such loop here")
        while not conprof.stats()["engine_stats"]["loops_watched"] and time.monotonic() < deadline:
            time.sleep(0.02)
        assert conprof.stats()["engine_stats"]["loops_watched"] == 1, "the premise: it is watched"
        assert (seen["tid"], seen["loop"]) in _native.loop_threads(), "the premise: it is seen"
        before, looks = switches(seen["tid"]), conprof.stats()["engine_stats"]["wall_looks"]
        time.sleep(1.5)
        woken = switches(seen["tid"]) - before
        assert conprof.stats()["engine_stats"]["wall_looks"] > looks + 10, "the premise: it looks"
        seen["loop"].call_soon_threadsafe(seen["end"].set)
        thread.join()
    assert woken == 0
    assert blocked_s(captured.rows) == 0


def test_a_loop_inside_a_context_is_idle_when_it_waits() -> None:
    took: list[float] = []

    async def main() -> None:
        await until_watched()
        await asyncio.sleep(1.0)
        began = time.monotonic()
        sit(BLOCK_S)
        took.append(time.monotonic() - began)
        await asyncio.sleep(0.5)

    with capture(profile_types=[conprof.WALL]) as captured:
        contextvars.copy_context().run(run, "asyncio", main)
    assert 0.3 * took[0] < blocked_s(captured.rows) < 1.9 * took[0]


def test_work_after_the_loop_blocks_nobody() -> None:
    async def main() -> None:
        await until_watched()

    with capture(profile_types=[conprof.WALL]) as captured:
        run("asyncio", main)
        compute(0.4)
        time.sleep(0.4)
    assert blocked_s(captured.rows) == 0


def test_windows_share_a_long_block() -> None:
    took: list[float] = []

    async def main() -> None:
        await until_watched()
        began = time.monotonic()
        with conprof.labels(job="long"):
            sit(1.5)
        took.append(time.monotonic() - began)
        await asyncio.sleep(0.2)

    with capture(profile_types=[conprof.WALL]) as captured:
        thread = threading.Thread(target=run, args=("asyncio", main))
        thread.start()
        while thread.is_alive():
            time.sleep(0.2)
            conprof.flush()
    rows = [row for row in captured.rows if row.loop_blocked_ns]
    assert len(captured.windows) > 4, "the premise: more than one window saw it"
    assert len(rows) > 3
    assert all(dict(row.labels) == {"job": "long"} for row in rows)
    assert 0.8 * took[0] < blocked_s(rows) < 1.2 * took[0] + 0.1
    assert sum(row.loop_blocks for row in rows) == 1


def test_below_the_threshold_nothing_is_shown() -> None:
    took: list[float] = []

    async def main() -> None:
        await until_watched()
        for _ in range(TIMES):
            began = time.monotonic()
            sit(BLOCK_S)
            took.append(time.monotonic() - began)
            await asyncio.sleep(0.01)

    with capture(profile_types=[conprof.WALL], loop_blocked_threshold=30) as captured:
        run("asyncio", main)
    assert max(took) < 20, "the premise: none was that long"
    assert blocked_s(captured.rows) == 0
    assert sum(row.wall_ns for row in captured.rows) > 0


@pytest.mark.leaves_process
def test_after_fork_the_child_watches_its_own_loop() -> None:
    run_script(
        """
import asyncio, os, time
import conprof_core as conprof

async def main():
    for _ in range(20):
        await asyncio.sleep(0.1)
    time.sleep(0.4)
    await asyncio.sleep(0.3)

def blocks():
    asyncio.run(main())
    return conprof.stats()["engine_stats"]["loop_blocks"]

conprof.start(profile_types="cpu,wall", export_to="file:///dev/null/none")
assert blocks() >= 1
pid = os.fork()
if pid == 0:
    os._exit(0 if blocks() >= 1 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
conprof.stop()
"""
    )
