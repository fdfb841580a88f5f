"""The command line: runs the matrix and prints the table.

make cruel                            every cell, with both engines
make cruel ARGS="--quick"             the cut that CI runs
make cruel ARGS="--only 'fork/*'"     cells by pattern; --list names them
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import platform
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cruel.cells import CELLS, Cell
from cruel.judge import facts, judge
from cruel.runner import ENGINES, Runner


@dataclass
class Verdict:
    """What came of a cell with one engine.

    Attributes:
        state: ok, FAIL or not run.
        problems: what is wrong, or why it did not run.
        first: what a first attempt found wrong, where a second one found nothing.
    """

    cell: str
    engine: str
    state: str
    problems: list[str] = field(default_factory=list)
    first: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def _attempt(runner: Runner, cell: Cell, engines: list[str], keep: bool) -> list[Verdict]:
    if reason := runner.why_not(cell):
        return [Verdict(cell.name, engine, "not run", [reason]) for engine in engines]
    truth = runner.run(cell, "off")
    verdicts = []
    outcomes = [truth]
    if truth.refusal or truth.how.startswith("hangs"):
        state = "not run" if truth.how == "status 98" else "FAIL"
        why = truth.refusal or f"without us: {truth.how}\n{truth.threads}"
        verdicts = [Verdict(cell.name, engine, state, [why]) for engine in engines]
    elif not cell.dies and truth.last("burnt") is None:
        why = f"the program does not run without us either: {truth.how}\n{truth.stderr[-2000:]}"
        verdicts = [Verdict(cell.name, engine, "FAIL", [why]) for engine in engines]
    elif cell.dies:
        ok = truth.how == "SIGSEGV" or "worked" not in truth.stdout
        why = f"without us: {truth.how} {truth.stdout.splitlines()[:1]}"
        verdicts = [Verdict(cell.name, "off", "ok" if ok else "FAIL", [why])]
    else:
        for engine in engines:
            got = runner.run(cell, engine)
            outcomes.append(got)
            found = [got.refusal] if got.refusal else judge(cell, engine, truth, got)
            if found and got.threads:
                found.append("threads at the end:\n" + got.threads)
            state = "FAIL" if found else "ok"
            verdicts.append(Verdict(cell.name, engine, state, found, facts=facts(got)))
    if not keep:
        for outcome in outcomes:
            runner.forget(outcome)
    return verdicts


def _settle(runner: Runner, cell: Cell, engines: list[str], keep: bool) -> list[Verdict]:
    """Try once more what failed: much is measured in time, on a machine that does other things.

    A crash or a hang that comes once is a defect all the same.
    """
    verdicts = _attempt(runner, cell, engines, keep)
    again = [v.engine for v in verdicts if v.state == "FAIL" and not _is_fatal(v)]
    if not again or cell.dies:
        return verdicts
    second = {v.engine: v for v in _attempt(runner, cell, again, keep)}
    for verdict in verdicts:
        new = second.get(verdict.engine)
        if new is not None and new.state == "ok":
            new.first, verdict.problems = verdict.problems, []
            verdict.state, verdict.first, verdict.facts = "ok", new.first, new.facts
    return verdicts


def _is_fatal(verdict: Verdict) -> bool:
    how = verdict.facts.get("how", "")
    return how.startswith(("hangs", "SIG"))


def _selected(args: argparse.Namespace) -> list[Cell]:
    cells = [cell for cell in CELLS if cell.is_quick or not args.quick]
    if args.only:
        cells = [c for c in cells if any(fnmatch.fnmatch(c.name, only) for only in args.only)]
    # The longest first, so that nobody waits for it at the end.
    return sorted(cells, key=lambda cell: -cell.timeout_s)


def _print(verdict: Verdict) -> None:
    seconds = verdict.facts.get("seconds", 0)
    print(f"{verdict.state:8} {verdict.cell:44} {verdict.engine:9} {seconds:5.1f} s", flush=True)
    for problem in verdict.problems:
        print("         " + problem.replace("\n", "\n         "), flush=True)
    for problem in verdict.first:
        print(f"         at the first attempt: {problem}", flush=True)


def _summary(verdicts: list[Verdict], runner: Runner, seconds: float) -> int:
    print()
    for kind in ("alternate", "thread"):
        if any(kind == "thread" or "signal" in v.cell for v in verdicts if "stack/" in v.cell):
            print(f"smallest stack that lives without us, {kind}: {runner.smallest(kind)} bytes")
    reasons: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict.state == "not run":
            reasons.setdefault(verdict.problems[0], []).append(verdict.cell)
    for reason, names in reasons.items():
        print(f"NOT RUN: {reason}: {', '.join(sorted(set(names)))}")
    failed = [v for v in verdicts if v.state == "FAIL"]
    for verdict in failed:
        print(
            f"FAILED {verdict.cell} {verdict.engine}: {verdict.problems[0].splitlines()[0][:150]}"
        )
    passed, skipped = (sum(v.state == state for v in verdicts) for state in ("ok", "not run"))
    again = sum(bool(v.first) for v in verdicts)
    print(f"CPython {platform.python_version()}, {again} at a second attempt")
    # The form that .ci/run counts.
    print(f"{passed} passed, {len(failed)} failed, {skipped} skipped in {seconds:.2f}s")
    return 1 if failed or not passed else 0


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="make cruel", description="Programs in cruel environments."
    )
    parser.add_argument("--quick", action="store_true", help="the cut that CI runs")
    parser.add_argument("--only", action="append", metavar="PATTERN", help="cells by name")
    parser.add_argument("--engine", choices=ENGINES[1:], action="append", help="default: both")
    parser.add_argument("--list", action="store_true", help="name the cells")
    parser.add_argument("--jobs", type=int, default=2, help="cells at a time")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the verdicts there")
    parser.add_argument("--keep", action="store_true", help="keep what the runs have left")
    args = parser.parse_args()
    cells = _selected(args)
    if args.list:
        print("\n".join(cell.name for cell in cells))
        return 0
    began = time.monotonic()
    verdicts: list[Verdict] = []
    scratch = Path(tempfile.mkdtemp(prefix="conprof-cruel-"))
    runner = Runner(scratch)
    engines = args.engine or list(ENGINES[1:])
    with ThreadPoolExecutor(args.jobs) as pool:
        under_way = [pool.submit(_settle, runner, cell, engines, args.keep) for cell in cells]
        for done in as_completed(under_way):
            verdicts += done.result()
            for verdict in done.result():
                _print(verdict)
    status = _summary(verdicts, runner, time.monotonic() - began)
    if args.json:
        args.json.write_text(json.dumps([vars(v) for v in verdicts], indent=1))
    if args.keep:
        print(f"kept in {scratch}")
    else:
        os.system(f"rm -rf {scratch}")
    return status


if __name__ == "__main__":
    sys.exit(main())
