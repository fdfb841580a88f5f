"""What a reader costs: cutting a window, adding pieces up, and the sums of allocations.

    python benchmarks/pull_cost.py [--stacks 5000] [--runs 20]

The pieces are windows as those of encode.py. CPU is that of the thread that does it, the median of
the runs. A read of a CPU profile is two cuts, one sum of its pieces and one encoding; the upload of
a period that was cut pays one sum more; with the profile type heap and the option ``pull`` every
window pays for the sums of all allocations.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from encode import take_window

from conprof_core import _cuts
from conprof_core._engine import EngineSettings, Part
from conprof_core._engine.native import NativeEngine
from conprof_core._window import compressed
from conprof_core.exporters import naming
from conprof_core.exporters.naming import Measured


def cpu_ms(work: Callable[[], object], runs: int) -> float:
    """Return the median CPU time of a call, in milliseconds."""
    taken = []
    for _ in range(runs):
        begin = time.thread_time()
        work()
        taken.append((time.thread_time() - begin) * 1000)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--stacks", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    engine = NativeEngine()
    window = take_window(options.stacks, ("cpu", "heap"))
    print(f"pieces of {window.stacks} stacks")
    span = {"start_ns": 1, "end_ns": 2}

    def total(*parts: Part) -> object:
        return engine.join(parts, **span)

    def encode() -> object:
        shape = naming.pull_shape("profile", Measured())
        return compressed(window.encode_pprof(shape, naming.pull(), mapping_file="python") or b"")

    def show(name: str, work: Callable[[], object]) -> None:
        print(f"{name:<24} {cpu_ms(work, options.runs):8.2f} ms")

    flow = Part(window, _cuts.ALLOCATED)
    show("sum of two pieces", lambda: total(Part(window), Part(window)))
    show("sum of allocations", lambda: total(flow, flow))
    show("encoding, with gzip", encode)
    engine.start(EngineSettings(100, 3600.0, 16_384, lambda: None), lambda: 3600.0)
    show("one cut", lambda: engine.take_window(ends_period=False))
    engine.stop()
    engine.take_window()


if __name__ == "__main__":
    main()
