"""Is an event loop blocked as long as the profile says, and what does looking cost?

    python benchmarks/blocked_truth.py [seconds]

1. Truth: callbacks of known length, sleeping or computing, in asyncio and in uvloop where it is
   installed; each length against the time and the number in the profile. At 100 ms, the threshold,
   about half should be there.
2. Collections: the pauses that gc.callbacks measure against those in the profile.
3. Cost: wake-ups of an idle loop's thread, and CPU milliseconds a second of the whole process, with
   the CPU profile only and with wall time; then the requests a second of a Starlette application.
"""

from __future__ import annotations

import asyncio
import gc
import re
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import conprof_core as conprof
from conprof_core.testing import capture

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 8.0


def compute(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(100))


def factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    found: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    try:
        import uvloop

        found["uvloop"] = uvloop.new_event_loop
    except ImportError:
        pass
    return found


def run(loop: str, main: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        for _ in range(500):
            if conprof.stats()["engine_stats"]["loops_watched"]:
                break
            await asyncio.sleep(0.02)
        await main()

    with asyncio.Runner(loop_factory=factories()[loop]) as runner:
        runner.run(whole())


def truth() -> None:
    print("loop      callback            planted        profile")
    for loop in factories():
        for block in (time.sleep, compute):
            for length in (0.05, 0.08, 0.1, 0.12, 0.15, 0.2, 0.5):
                took: list[float] = []

                async def main(
                    block: Callable[[float], None] = block,
                    length: float = length,
                    took: list[float] = took,
                ) -> None:
                    until = time.monotonic() + SECONDS
                    while time.monotonic() < until:
                        began = time.monotonic()
                        block(length)
                        took.append(time.monotonic() - began)
                        await asyncio.sleep(0.037)

                with capture(profile_types=[conprof.WALL]) as captured:
                    run(loop, main)
                found = sum(row.loop_blocked_ns for row in captured.rows) / 1e9
                blocks = sum(row.loop_blocks for row in captured.rows)
                print(
                    f"{loop:9} {block.__name__:8} {length * 1000:5.0f} ms {len(took):5} x "
                    f"{statistics.mean(took) * 1000:5.0f} ms {blocks:5} x "
                    f"{1000 * found / blocks if blocks else 0:5.0f} ms   "
                    f"{100 * found / sum(took):6.1f} %"
                )


def collections() -> None:
    began = 0
    spent: list[int] = []

    def callback(phase: str, info: dict[str, int]) -> None:
        nonlocal began
        if phase == "start":
            began = time.monotonic_ns()
        else:
            spent.append(time.monotonic_ns() - began)

    kept: list[Any] = []
    with capture(profile_types=[conprof.WALL]) as captured:
        gc.callbacks.append(callback)
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            kept.append([[number] for number in range(500)])
            if len(kept) > 500:
                del kept[:]
        gc.callbacks.remove(callback)
    found = sum(row.gc_pause_ns for row in captured.rows)
    count = sum(row.gc_pauses for row in captured.rows)
    print(
        f"collections: {len(spent)}, {sum(spent) / 1e6:.1f} ms; "
        f"profile: {count}, {found / 1e6:.1f} ms ({100 * found / sum(spent):.1f} %)"
    )


def switches(tid: int) -> int:
    status = Path(f"/proc/self/task/{tid}/status").read_text()
    return sum(int(n) for n in re.findall(r"voluntary_ctxt_switches:\s+(\d+)", status))


def idle(loop: str, types: list[conprof.ProfileType]) -> None:
    seen: dict[str, Any] = {}

    def serve() -> None:
        async def main() -> None:
            seen["tid"] = threading.get_native_id()
            seen["loop"], seen["end"] = asyncio.get_running_loop(), asyncio.Event()
            await seen["end"].wait()

        with asyncio.Runner(loop_factory=factories()[loop]) as runner:
            runner.run(main())

    with capture(profile_types=types, period=3600):
        thread = threading.Thread(target=serve)
        thread.start()
        time.sleep(2.0)
        woken, used = switches(seen["tid"]), time.process_time_ns()
        time.sleep(SECONDS)
        woken, used = switches(seen["tid"]) - woken, time.process_time_ns() - used
        seen["loop"].call_soon_threadsafe(seen["end"].set)
        thread.join()
    print(
        f"idle {loop}, {'+'.join(types)}: {woken} wake-ups of the loop, "
        f"{used / 1e6 / SECONDS:.2f} ms/s of CPU"
    )


def requests_s(types: list[conprof.ProfileType]) -> float:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from conprof_asgi import ConprofMiddleware

    async def item(request: Request) -> JSONResponse:
        return JSONResponse({"id": request.path_params["id"], "tags": ["a"] * 20})

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/items/4711",
        "raw_path": b"/items/4711",
        "query_string": b"",
        "headers": [],
        "root_path": "",
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        pass

    done = 0

    async def main() -> None:
        nonlocal done
        app = ConprofMiddleware(Starlette(routes=[Route("/items/{id}", item)]))
        until = time.process_time() + SECONDS / 4
        while time.process_time() < until:
            for _ in range(50):
                await asyncio.create_task(app(dict(scope), receive, send))  # type: ignore[arg-type]
            done += 50
            await asyncio.sleep(0)

    with capture(profile_types=types, period=3600):
        asyncio.run(main())
    return done / (SECONDS / 4)


def busy() -> None:
    kinds = {"cpu": [conprof.CPU], "cpu+wall": [conprof.CPU, conprof.WALL]}
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(8):
        for name, types in kinds.items():
            rates[name].append(requests_s(types))
    middle = {name: statistics.median(values) for name, values in rates.items()}
    print(
        "Starlette, requests per second of CPU: "
        + ", ".join(f"{name} {value:.0f}" for name, value in middle.items())
        + f" ({100 * (middle['cpu+wall'] / middle['cpu'] - 1):+.2f} %)"
    )


if __name__ == "__main__":
    truth()
    collections()
    for each in factories():
        idle(each, [conprof.CPU])
        idle(each, [conprof.CPU, conprof.WALL])
    busy()
