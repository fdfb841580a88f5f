"""What leaks, end to end: an application under the native engine, two windows, the agent's diff."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from support import agent as make
from support.process import run_script

from conprof_core import EngineUnavailableError
from conprof_core._engine import choose

# The agent knows windows by the second of their middle: each lasts long enough to be told apart.
LEAKY = """
    import time
    import conprof_core as conprof

    conprof.start(
        application_name="leaky", agent_socket="tcp://127.0.0.1:%d", profile_types="heap",
        heap_sample_bytes=16384, heap_old_windows=1, period=3600,
    )
    cache, leak = [], []

    def fill_cache():
        cache.extend(bytes(967) for _ in range(30_000))

    def forget_to_free():
        leak.extend(bytes(967) for _ in range(20_000))

    with conprof.labels({"http.route": "/cached"}):
        fill_cache()
    for _ in range(2):
        with conprof.labels({"http.route": "/leaky"}):
            forget_to_free()
        time.sleep(2.5)
        assert conprof.flush()
        print(time.time(), flush=True)
    conprof.stop()
"""


def by_route(agent: make.Agent, selection: dict[str, object]) -> Counter[str]:
    return Counter({r["value"]: r["total"] for r in agent.get("table", **selection)["rows"]})


def near(value: float, truth: float) -> bool:
    return abs(value - truth) < 0.15 * truth


def test_the_diff_of_two_windows_shows_the_leak(tmp_path: Path) -> None:
    if os.environ.get("CONPROF_ENGINE") == "portable":
        pytest.skip("the portable engine was demanded")
    try:
        choose("native")
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    with make.Agent(tmp_path) as agent:
        first, second = map(float, run_script(LEAKY % agent.port).check().stdout.split())
        common = {"service": "leaky", "type": "heap_space", "to": int(second)}
        now = common | {"from": int(first)}
        diff = agent.get("diff", **now, **{"base.from": int(first) - 60, "base.to": int(first)})
        assert diff["instant"]
        # By function: the whole has the modules as well that the first upload imports.
        assert diff["base_total"] >= 45e6
        nodes, names = diff["nodes"], [function[0] for function in diff["functions"]]
        sides = {
            names[function]: (total, base)
            for function, total, base in zip(
                nodes["function"], nodes["total"], nodes["base_total"], strict=True
            )
        }
        assert near(sides["forget_to_free"][1], 20e6)
        assert near(sides["forget_to_free"][0], 40e6)
        assert near(sides["fill_cache"][1], 30e6)
        stays = sides["fill_cache"][0] - sides["fill_cache"][1]
        assert abs(stays) < 1e6, "what only stays does not grow"
        before = {"from": int(first) - 60, "to": int(first)}
        grown = by_route(agent, common | now)
        grown.subtract(by_route(agent, common | before))
        (route, growth), *_ = (each for each in grown.most_common() if each[0])
        assert route == "/leaky", "the route that leaks grew most"
        assert near(growth, 20e6)
        old = agent.get("flamegraph", **now, label=["heap.age=old", "http.route!="])
        assert near(old["total"], 50e6), "the cache, and the first half of the leak"
