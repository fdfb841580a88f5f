"""A test file with the profiler off and on: what is worse with it.

Each item runs twice in processes of its own, with a time bound; one that is worse with the profiler
on runs once more both ways, and counts when it is worse again. A crash counts when it happens once.
An item counts only if samples were really taken of its process; else it is reported as not proven.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from stress.sender import Sender
from support.check_valid import check_bytes

RATE_HZ = 1000
ALL_TYPES = "cpu,wall,heap,tasks"
PASSED, FAILED, MISSING = "passed", "failed", "missing"


@dataclass(frozen=True)
class Item:
    """What is run.

    Attributes:
        name: of the line in the report.
        command: what follows the interpreter; ``{xml}`` is where it leaves its JUnit results.
        cwd: where it runs; "": in a directory of its own.
        known_cases: cases that say nothing of the profiler.
    """

    name: str
    command: tuple[str, ...]
    cwd: str = ""
    known_cases: frozenset[str] = frozenset()


@dataclass
class Outcome:
    """One run of one file."""

    how: str  # "ended with 0", "killed after 300 s", "SIGSEGV", ...
    cases: dict[str, str] = field(default_factory=dict)  # test id -> passed, failed, skipped
    output: str = ""
    seconds: float = 0.0
    samples: int = 0
    sent: int = 0  # signals, from outside
    profiles: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def crashed(self) -> bool:
        """Whether the process ended in a way no test result explains."""
        return self.how.startswith(("SIG", "killed"))


def run_item(item: Item, on: bool, args: argparse.Namespace) -> Outcome:
    """Run it once."""
    with tempfile.TemporaryDirectory(prefix="conprof-stress-") as scratch:
        xml, profiles = Path(scratch, "results.xml"), Path(scratch, "profiles")
        command = [sys.executable, "-X", "faulthandler"]
        command += [part.replace("{xml}", str(xml)) for part in item.command]
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("CONPROF_", "BLACKFIRE_"))
        }
        environment["TMPDIR"] = scratch
        if on:
            environment["BLACKFIRE_CONPROF_CPU_DURATION"] = str(args.window)
            environment["BLACKFIRE_CONPROF_PERIOD"] = str(args.window)
            environment["CONPROF_PROFILE_TYPES"] = args.types
            environment["CONPROF_HEAP_SAMPLE_BYTES"] = "16384"
            runner = [sys.executable, "-m", "conprof_core.cli.main", "run"]
            runner += ["--rate", str(args.rate), "--export-to", f"file://{profiles}"]
            runner += ["--engine", args.engine, "--app-name", "stress", "--"]
            command = runner + command
        began = time.monotonic()
        with open(Path(scratch, "output"), "w+b") as output:
            process = subprocess.Popen(
                command,
                cwd=item.cwd or scratch,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            with Sender(process.pid, args.signals if on else 0) as sender:
                how = _wait(process, args.timeout)
            output.seek(0)
            text = output.read().decode(errors="replace")
        outcome = Outcome(how, _cases(xml), text, time.monotonic() - began, sent=sender.sent)
        if on:
            _read_profiles(outcome, profiles, process.pid)
        return outcome


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> str:
    try:
        code = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # faulthandler prints the stacks
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        how = f"killed after {timeout_s:g} s"
    else:
        how = signal.Signals(-code).name if code < 0 else f"ended with {code}"
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    return how


def _cases(xml: Path) -> dict[str, str]:
    if not xml.exists():
        return {}
    cases = {}
    for case in ET.parse(xml).iter("testcase"):
        bad = case.find("failure") is not None or case.find("error") is not None
        skipped = case.find("skipped") is not None or case.get("result") == "skipped"
        name = ".".join(filter(None, (case.get("classname"), case.get("name"))))
        cases[name] = FAILED if bad else "skipped" if skipped else PASSED
    return cases


def _read_profiles(outcome: Outcome, directory: Path, pid: int) -> None:
    for path in sorted(directory.glob("*.pb.gz")):
        try:
            profile = check_bytes(path.read_bytes())
        except Exception as error:
            outcome.problems.append(f"{path.name}: {error}")
            continue
        outcome.profiles += 1
        has_samples = any(known.type == "samples" for known in profile.sample_types)
        if f"-{pid}-" in path.name and has_samples:
            outcome.samples += profile.total("samples")


def worse(off: Outcome, on: Outcome, known_cases: frozenset[str] = frozenset()) -> list[str]:
    """Return what happens with the profiler and not without it."""
    found = list(on.problems)
    if on.crashed and not off.crashed:
        found.append(f"{on.how} (without: {off.how})")
    if off.cases and not on.cases and not on.crashed:
        found.append(f"no results, {on.how}")
    if on.cases:
        for case, result in off.cases.items():
            if case in known_cases or result != PASSED:
                continue
            if on.cases.get(case, MISSING) in (FAILED, MISSING):
                found.append(f"{case}: {on.cases.get(case, MISSING)}")
        found += [
            f"{case}: failed, and is not run without the profiler"
            for case, result in on.cases.items()
            if result == FAILED and case not in off.cases
        ]
    return found


@dataclass
class Verdict:
    """What became of one file."""

    name: str
    off: Outcome
    on: Outcome
    worse: list[str]
    flaky: list[str]


def judge(item: Item, args: argparse.Namespace) -> Verdict:
    """Run it off and on, and again both ways if it is worse on."""
    name, known = item.name, item.known_cases
    off, on = run_item(item, False, args), run_item(item, True, args)
    first = worse(off, on, known)
    if not first:
        return Verdict(name, off, on, [], [])
    again_off, again_on = run_item(item, False, args), run_item(item, True, args)
    second = worse(again_off, again_on, known)
    unsteady = {
        case for run in (off, again_off) for case, how in run.cases.items() if how == FAILED
    }
    # A crash counts when it happens once; a failing case, when it fails both times.
    crash = [what for what in first + second if what.startswith(("SIG", "killed"))]
    both = [
        what
        for what in second
        if what in first and what.partition(":")[0] not in unsteady and what not in crash
    ]
    flaky = [what for what in first if what not in both and what not in crash]
    evidence = on if first else again_on
    return Verdict(name, off, evidence, crash + both + on.problems, flaky)


def _state(verdict: Verdict) -> str:
    return "FAIL" if verdict.worse else "ok" if verdict.on.samples else "NOT PROVEN"


def report(verdict: Verdict, logs: Path | None) -> str:
    """Return the line of a file; its output goes to the log directory when it is worse."""
    on = verdict.on
    passed = sum(result == PASSED for result in on.cases.values())
    line = (
        f"{verdict.name:28} {_state(verdict):10} {passed:5} passed  {on.samples:6} samples  "
        f"{on.sent:6} sent  {on.profiles:4} profiles  "
        f"{verdict.off.seconds:5.1f} s off {on.seconds:5.1f} s on"
    )
    if not verdict.off.cases:
        line += f"  (no results without the profiler either: {verdict.off.how})"
    for what in verdict.worse:
        line += f"\n    worse: {what}"
    if on.crashed:
        said = on.output.partition("Fatal Python error")
        line += "\n    said: " + "\n        ".join((said[1] + said[2]).splitlines()[:12])
    for what in verdict.flaky:
        line += f"\n    once, not again: {what}"
    if verdict.worse and logs is not None:
        path = logs / f"{verdict.name}.log"
        path.write_text(on.output)
        line += f"\n    output: {path}"
    return line


def options(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of what all have in common."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rate", type=int, default=RATE_HZ, help="samples per second of CPU time")
    parser.add_argument("--window", type=float, default=2.0, help="seconds of a window")
    parser.add_argument("--engine", default="native", choices=("native", "portable"))
    parser.add_argument("--types", default=ALL_TYPES, help="profile types, such as cpu,heap")
    parser.add_argument("--signals", type=int, default=RATE_HZ, help="a second, from outside")
    parser.add_argument("--minutes", type=float, help="begin no file after so long")
    parser.add_argument("--state", type=Path, help="keep results here, and skip what is in it")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one file")
    parser.add_argument("--jobs", type=int, default=2, help="files at the same time")
    parser.add_argument("--logs", type=Path, help="keep the output of what is worse here")
    return parser


def run_all(items: Sequence[Item], args: argparse.Namespace) -> int:
    """Run them, print a line each, return 1 if one is worse."""
    # A job in the background of a shell without job control ignores SIGINT, and so would tests that
    # interrupt themselves: they wait for ever.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if args.logs:
        args.logs.mkdir(parents=True, exist_ok=True)
    version = sys.version.split()[0]
    print(
        f"CPython {version}, {args.engine} engine, {args.rate} Hz, {len(items)} files", flush=True
    )
    known = json.loads(args.state.read_text()) if args.state and args.state.exists() else {}
    deadline = time.monotonic() + 60 * args.minutes if args.minutes else float("inf")

    def reach(item: Item) -> tuple[str, str]:
        """Return the state of a file and its line; empty when there was no time for it."""
        key = f"{version} {args.engine} {args.types} {item.name}"
        if key not in known and time.monotonic() < deadline:
            verdict = judge(item, args)
            known[key] = [_state(verdict), report(verdict, args.logs)]
            if args.state:
                args.state.write_text(json.dumps(known, indent=1))
        state, line = known.get(key, ("", ""))
        return state, line

    counts = {"ok": 0, "FAIL": 0, "NOT PROVEN": 0, "": 0}
    reached = []
    with ThreadPoolExecutor(args.jobs) as pool:
        for item, (state, line) in zip(items, pool.map(reach, items), strict=True):
            counts[state] += 1
            if state:
                print(line, flush=True)
                reached.append(item.name)
    print(f"reached {len(reached)} of {len(items)} files: {' '.join(reached)}")
    print(f"{counts['NOT PROVEN']} not proven to be sampled (too short, or no results)")
    print(f"stress: {len(reached) - counts['FAIL']} passed, {counts['FAIL']} failed")
    return 1 if counts["FAIL"] or not reached else 0
