"""How close a profile comes to the truth: totals, shares, short threads, children, routes.

    python benchmarks/accuracy.py                    15 CPU seconds a workload, about 3 minutes
    python benchmarks/accuracy.py --seconds 5 contending asyncio_routes
    python benchmarks/accuracy.py --pythons .venv/3.11/bin/python .venv/3.12/bin/python
    python benchmarks/accuracy.py --json

Each workload runs in a process of its own and measures its truth with the kernel's CPU clocks
(``workloads.py``). The profile is read back by the tests' independent reader. Exit status 1 when a
goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.check_valid import check_conprof, check_valid  # noqa: E402
from support.pprof_reader import Profile, parse  # noqa: E402

WORKLOADS = (
    "one_thread",
    "contending",
    "gil_free",
    "sleep_beside_burn",
    "short_threads",
    "forked_child",
    "asyncio_routes",
)
TOTAL_GOAL = 0.003  # of 1
SHARE_GOAL = 1.0  # percentage points
PART_GOAL = 0.99  # of a route, of short threads, of a child


@dataclass
class Result:
    """One workload, measured."""

    python: str
    workload: str
    true_s: float
    reported_s: float
    samples: int
    rows: dict[str, tuple[float, float]] = field(default_factory=dict)  # part: (true, reported)
    engine: str = ""
    attributed: dict[str, float] = field(default_factory=dict)  # route: share under its own label
    missed: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Reported ÷ true."""
        return self.reported_s / self.true_s

    @property
    def share_error(self) -> float:
        """The largest difference of a part's share, in percentage points."""
        true, reported = (sum(pair[i] for pair in self.rows.values()) for i in (0, 1))
        return max(
            (abs(100 * a / true - 100 * b / max(reported, 1e-9)) for a, b in self.rows.values()),
            default=0.0,
        )

    @property
    def worst_part(self) -> float:
        """The smallest reported ÷ true of a part."""
        return min((b / a for a, b in self.rows.values() if a > 0.05), default=0.0)


def measure(python: str, workload: str, seconds: float) -> Result:
    """Run one workload and compare."""
    with tempfile.TemporaryDirectory(prefix="conprof-accuracy-") as directory:
        script = Path(__file__).with_name("workloads.py")
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("BLACKFIRE_", "CONPROF_")) or key == "CONPROF_ENGINE"
        }
        run = subprocess.run(
            [python, str(script), workload, str(seconds), directory],
            capture_output=True,
            text=True,
            timeout=seconds * 20 + 120,
            env=environment,
        )
        if run.returncode:
            raise SystemExit(f"{workload} ended with {run.returncode}\n{run.stdout}{run.stderr}")
        truth = json.loads(run.stdout.splitlines()[-1])
        paths = sorted(Path(directory).glob("*.pb.gz"))
        child = truth.get("child")
        if child:
            paths = [path for path in paths if f"-{child}-" in path.name]
        profiles = [parse(path.read_bytes()) for path in paths]
    assert profiles, f"{workload}: no profile was written\n{run.stderr}"
    return compare(python, workload, truth, profiles)


def compare(python: str, workload: str, truth: dict[str, Any], profiles: list[Profile]) -> Result:
    """Set truth and profile side by side, and against the goals."""
    reported: dict[str, float] = {}
    for profile in profiles:
        for part, value in profile.by_function("cpu").items():
            reported[part] = reported.get(part, 0.0) + value / 1e9
    result = Result(
        python,
        workload,
        truth["cpu_s"],
        sum(profile.total("cpu") for profile in profiles) / 1e9,
        sum(profile.total("samples") for profile in profiles),
        engine=truth["stats"].get("engine", "?"),
    )
    for part, true_s in truth["parts"].items():
        result.rows[part] = (true_s, reported.get(part, 0.0))
    problems = [p for profile in profiles for p in check_valid(profile) + check_conprof(profile)]
    if problems:
        result.missed.append(f"not valid: {problems[0]} ({len(problems)} problems)")
    if workload == "short_threads":
        assert truth["threads"] == 3000, "premise: 3000 threads ran"
        true_s, seen = result.rows["short"]
        result.rows["short"] = (true_s, seen + reported.get("[short threads]", 0.0))
        if result.worst_part < PART_GOAL:
            result.missed.append(f"short threads below {PART_GOAL}")
    elif abs(result.ratio - 1) > TOTAL_GOAL:
        result.missed.append(f"total is not 1.000 ± {TOTAL_GOAL}")
    for function, route in truth.get("routes", {}).items():
        everything, labelled = _attributed(profiles, function, route)
        assert everything > 0, f"premise: {function} was sampled"
        result.attributed[route] = labelled / everything
        if labelled / everything < PART_GOAL:
            result.missed.append(f"{route} is below {PART_GOAL}")
    # Which of two routes is hit at random moments is a matter of chance: attribution is not.
    if workload != "asyncio_routes" and result.share_error > SHARE_GOAL:
        result.missed.append(f"a share is off by more than {SHARE_GOAL:g} point")
    return result


def _attributed(profiles: list[Profile], function: str, route: str) -> tuple[int, int]:
    """Return the CPU time with a function on the stack, and what of it carries its route."""
    everything = labelled = 0
    for profile in profiles:
        column = profile.column("cpu")
        for sample in profile.samples:
            if function in sample.functions:
                everything += sample.values[column]
                if sample.labels.get("route") == route:
                    labelled += sample.values[column]
    return everything, labelled


def _remarks(result: Result) -> str:
    routes = [f"{route} {share:.4f} labelled" for route, share in result.attributed.items()]
    return "; ".join([*routes, *result.missed] if result.missed else [*routes, "ok"])


def _version(python: str) -> str:
    command = [python, "-c", "import platform; print(platform.python_version())"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    """Measure, print a table, return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", nargs="*", help=f"default: {' '.join(WORKLOADS)}")
    parser.add_argument("--seconds", type=float, default=15.0, help="CPU seconds of a workload")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--pythons",
        nargs="+",
        default=[sys.executable],
        metavar="PYTHON",
        help="interpreters to run the workloads with, conprof[test] installed; default: this one",
    )
    args = parser.parse_args()
    if unknown := set(args.workloads) - set(WORKLOADS):
        parser.error(f"no such workload: {', '.join(sorted(unknown))}")
    results = []
    for python in args.pythons:
        if not args.json:
            print(f"CPython {_version(python)}, {args.seconds:g} CPU seconds a workload")
            print(
                f"{'workload':18} {'true s':>8} {'reported':>9} {'ratio':>7} {'share error':>12} "
                f"{'worst part':>11} {'samples':>8}"
            )
        for workload in args.workloads or WORKLOADS:
            result = measure(python, workload, args.seconds)
            results.append(result)
            if not args.json:
                print(
                    f"{workload:18} {result.true_s:8.3f} {result.reported_s:9.3f} "
                    f"{result.ratio:7.4f} {result.share_error:8.2f} pts "
                    f"{result.worst_part:11.4f} {result.samples:8}  {_remarks(result)}",
                    flush=True,
                )
    if args.json:
        fields = ("ratio", "share_error", "worst_part")
        print(json.dumps([{**asdict(r), **{f: getattr(r, f) for f in fields}} for r in results]))
    return 1 if any(result.missed for result in results) else 0


if __name__ == "__main__":
    raise SystemExit(main())
