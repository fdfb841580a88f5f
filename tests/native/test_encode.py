"""The encoder of the extension where numbers grow long: more locations than two bytes number."""

from __future__ import annotations

import time
from typing import Any

import pytest
from support.check_otlp import check_request
from support.check_valid import check_bytes

from conprof_core._profiler import Profiler
from conprof_core.exporters import naming
from conprof_core.exporters.naming import Measured
from conprof_core.testing import MemoryExporter

pytestmark = pytest.mark.native_core

TWO_BYTES = 1 << 14
LINES = 10_000
HEAP = Measured(types=("heap",))


@pytest.mark.parametrize("kind", ["pprof", "otlp"])
def test_ids_of_one_two_and_three_bytes_name_what_was_sampled(kind: str) -> None:
    space: dict[str, Any] = {"kept": [], "sleep": time.sleep}
    exec("made = [" + "".join("lambda: bytes(20_000),\n" for _ in range(LINES)) + "]", space)
    # With a pause for the drain, as all of them are more than the ring takes.
    calls = "".join(
        f" kept.append(made[{at}]())\n" + " sleep(0.03)\n" * (at % 200 == 199)
        for at in range(LINES)
    )
    exec(f"def call():\n{calls}", space)
    exporter = MemoryExporter(naming.otlp(HEAP) if kind == "otlp" else naming.go(HEAP))
    profiler = Profiler(profile_types="heap", heap_sample_bytes=1024, exporters=(exporter,))
    rows: list[Any] = []
    profiler.observe(rows.extend)
    profiler.start()
    space["call"]()
    profiler.stop()
    sampled = {
        tuple((function, line) for function, _, line, _ in row.frames[:2])
        for row in rows
        if row.frames[0][0] == "<lambda>"
    }
    assert 2 * len(sampled) > TWO_BYTES, "the premise: that many locations"
    (profile,) = exporter.windows[0].profiles
    if kind == "pprof":
        stacks = [sample.frames for sample in check_bytes(profile.pprof_gz).samples]
    else:
        found = check_request(profile.pprof_gz).profiles
        stacks = [sample.frames for samples in found.values() for sample in samples]
    told = {tuple((frame[0], frame[2]) for frame in stack[:2]) for stack in stacks}
    assert sampled <= told
