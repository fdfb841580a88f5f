"""What leaks, end to end: an application under the native engine, two windows, the agent's diff."""

from __future__ import annotations

import os
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
        assert near(diff["base_total"], 50e6)
        assert near(diff["total"], 70e6)
        nodes, names = diff["nodes"], [function[0] for function in diff["functions"]]
        growth = {
            names[function]: total - base
            for function, total, base in zip(
                nodes["function"], nodes["total"], nodes["base_total"], strict=True
            )
        }
        assert near(growth["forget_to_free"], 20e6)
        assert abs(growth["fill_cache"]) < 1e6, "what only stays does not grow"
        rows = {row["value"]: row for row in agent.get("table", **now)["rows"]}
        assert {"/cached", "/leaky"} <= rows.keys()
        old = agent.get("flamegraph", **now, label="heap.age=old")
        assert near(old["total"], 50e6), "the cache, and the first half of the leak"
