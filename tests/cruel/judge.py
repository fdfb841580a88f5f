"""Says what an engine has changed: the run without the profiler is what is right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from support.pprof_reader import Profile, parse_file

from cruel.cells import DEFAULTS, Cell
from cruel.runner import Outcome

ADDED_S = 2.1  # what a fork, stop() or the exit may take longer: 2 s are allowed, and clocks tick

# The start of a thread may cost some times its own in a process of thousands; not more with each.
BESIDE = {"threads": 3}

# CPU: 1 %, and 15 ms that no single reading can tell. Linux moves the CPU clock of a process by
# whole ticks of 4 ms while a timer runs on it, at both ends of the interval; the portable engine
# looks each 10 ms, and what is below a millisecond waits for the next window by design.
CPU_SHARE, CPU_SLACK_NS = 0.01, 15_000_000
# Where it was burnt: what lies at the ends of labelled blocks is spread by estimate, and the
# portable engine charges what a thread used to the place where it finds it.
PLACE_SHARE, PLACE_SLACK_NS = {"native": 0.10, "portable": 0.40}, 40_000_000

_LOG_LINE = re.compile(
    r"(?m)^(\d{4}-\d\d-\d\d [\d:,]+ \w+ conprof|conprof[.: ]|wall time is not|allocations are)"
)
_ADDRESS = re.compile(r"0x[0-9a-f]+")
_PID = re.compile(r"pid[ =]\d+")
# Counters that name CPU which is not in the profile, or not where it was used.
_NAMING = re.compile(r"^(?!timer_overruns|truncated)(\w+): [1-9]")


def judge(cell: Cell, engine: str, truth: Outcome, got: Outcome) -> list[str]:
    """Return what is wrong, in words."""
    problems = _what_it_does(truth, got)
    if got.how.startswith("hangs"):
        return problems
    problems += _how_long(truth, got)
    problems += _engine(cell, engine, got) + _windows(cell, got)
    if not cell.unjudged or (cell.unjudged == "native only" and engine == "native"):
        problems += _cpu(cell, got) + _children(got)
    return problems


def _what_it_does(truth: Outcome, got: Outcome) -> list[str]:
    problems = []
    if truth.how != got.how:
        problems.append(f"ended with {got.how}, not {truth.how}")
    if truth.stdout != got.stdout:
        problems.append(f"printed {got.stdout!r}, not {truth.stdout!r}")
    if truth.files != got.files:
        problems.append(f"left files {got.files}, not {truth.files}")
    expected, found = _own_lines(truth.stderr), _own_lines(got.stderr)
    if expected != found:
        extra = [line for line in found if line not in expected] or found
        problems.append(f"wrote to stderr: {' / '.join(extra[-4:])!r} (without us {expected[-2:]})")
    return problems


def _own_lines(text: str) -> list[str]:
    """Return what the program itself wrote: not our log, nor the tracebacks in it."""
    kept: list[str] = []
    is_ours = in_traceback = False
    for line in text.splitlines():
        if in_traceback:
            in_traceback = line.startswith(" ")
        elif line == "Traceback (most recent call last):" and is_ours:
            in_traceback = True
        elif line.strip():
            is_ours = bool(_LOG_LINE.match(line)) or (
                is_ours and line.startswith(("During", "The"))
            )
            if not is_ours:
                kept.append(_PID.sub("pid", _ADDRESS.sub("0x", line)))
    return kept


def _how_long(truth: Outcome, got: Outcome) -> list[str]:
    usual = truth.took()
    problems = [
        f"{what} took {seconds:.1f} s, without us {usual.get(what, 0):.1f} s"
        for what, seconds in got.took().items()
        if seconds > usual.get(what, 0) * BESIDE.get(what, 1) + ADDED_S
    ]
    if got.exit_s > truth.exit_s + ADDED_S:
        problems.append(f"exit took {got.exit_s:.1f} s, without us {truth.exit_s:.1f} s")
    return problems


def _engine(cell: Cell, engine: str, got: Outcome) -> list[str]:
    started = got.last("started")
    if started is None:
        return ["start() did not return"] if got.events else ["no report"]
    if started["engine"] is None and not cell.is_native:
        return [] if _LOG_LINE.search(got.stderr) else ["start() did nothing, and said nothing"]
    if engine == "native" and started["engine"] != "native":
        if cell.is_native:
            return [f"the {started['engine']} engine ran: {started['reason']}"]
        if not started["reason"]:
            return [f"the {started['engine']} engine ran, without a reason"]
    stats = (got.last("ends") or {}).get("stats") or {}
    if stats.get("internal_errors"):
        return [f"internal errors: {stats['internal_errors']}, {stats['last_internal_error']}"]
    return []


def _profiles(got: Outcome, pid: int) -> list[Profile]:
    """Return the CPU profiles of a process."""
    own = re.compile(rf"-{pid}-\d+\.pb\.gz$")
    return [parse_file(p) for p in sorted(got.profiles.iterdir()) if own.search(p.name)]


def _windows(cell: Cell, got: Outcome) -> list[str]:
    """Windows are as long as they should be, whatever the clock on the wall does."""
    most = cell.options.get("period", DEFAULTS["period"]) + ADDED_S
    longest = min(most, got.seconds)
    durations = [
        parse_file(path).duration_nanos / 1e9
        for path in got.profiles.iterdir()
        if path.name.count(".") == 2  # CPU profiles: no name of another type in between
    ]
    return [
        f"a window of {s:.1f} s, where the period is {most - ADDED_S:g} s and the whole run took "
        f"{got.seconds:.1f} s"
        for s in durations
        if not 0 <= s <= longest
    ]


def _children(got: Outcome) -> list[str]:
    """A child that is profiled says so by a profile."""
    problems: list[str] = []
    if "not profiling this process" in got.stderr:  # which it says
        return problems
    for child in {e["pid"] for e in got.events if e["what"] == "expects"}:
        burnt = sum(e["ns"] for e in got.events if e["what"] == "burnt" and e["pid"] == child)
        total = sum(profile.total() for profile in _profiles(got, child))
        if total < burnt * (1 - CPU_SHARE) - CPU_SLACK_NS:
            problems.append(f"CPU of a child {_ms(total)}, it burnt {_ms(burnt)}")
    return problems


def _cpu(cell: Cell, got: Outcome) -> list[str]:
    started = got.last("started")
    ends = got.last("ends")
    if started is None or ends is None:
        return []
    stopped = got.last("stopped") or {}
    profiles = _profiles(got, started["pid"])
    total = sum(profile.total() for profile in profiles)
    # The portable engine leaves out what its own threads use, and says how much that is.
    least = ends["cpu"] - started["after"] - ends["own"]
    # Where it stops by its exit the process is measured from without.
    most = stopped.get("after", got.cpu_ns) - started["before"]
    # The native engine puts all there is into its profile, if only under a synthetic name.
    is_named = started["engine"] != "native" and any(
        _NAMING.match(comment) for profile in profiles for comment in profile.comments
    )
    problems = []
    if total < least * (1 - CPU_SHARE) - CPU_SLACK_NS and not is_named:
        problems.append(f"CPU {_ms(total)}, used were {_ms(least)}, and nothing names the rest")
    if total > most * (1 + CPU_SHARE) + CPU_SLACK_NS:
        problems.append(f"CPU {_ms(total)}, used were at most {_ms(most)}")
    return problems + (_place(got, profiles) if cell.attributed and not problems else [])


def _place(got: Outcome, profiles: list[Profile]) -> list[str]:
    """What was burnt stands under the label of the burning, or under a synthetic name."""
    started = got.last("started") or {}
    pid = started["pid"]
    burnt = sum(e["ns"] for e in got.events if e["what"] == "burnt" and e["pid"] == pid)
    there = 0
    elsewhere: dict[str, int] = {}
    for profile in profiles:
        column = profile.column(profile.time_type)
        for sample in profile.samples:
            leaf = sample.functions[0] if sample.frames else ""
            if sample.labels.get("part") == "burn" or leaf.startswith("["):
                there += sample.values[column]
            else:
                elsewhere[leaf] = elsewhere.get(leaf, 0) + sample.values[column]
    if there >= burnt * (1 - PLACE_SHARE[started["engine"]]) - PLACE_SLACK_NS:
        return []
    most = sorted(elsewhere.items(), key=lambda item: -item[1])[:3]
    places = ", ".join(f"{leaf} {_ms(ns)}" for leaf, ns in most)
    return [f"of {_ms(burnt)} burnt, {_ms(there)} stand under their label or a name; {places}"]


def facts(got: Outcome) -> dict[str, Any]:
    """Return what is worth knowing of a run, for --json."""
    started = got.last("started") or {}
    return {
        "how": got.how,
        "seconds": round(got.seconds, 2),
        "exit_s": round(got.exit_s, 2),
        "took": got.took(),
        "engine": started.get("engine"),
        "reason": started.get("reason"),
        "profiles": len(list(got.profiles.glob("*.pb.gz"))) if got.profiles != Path() else 0,
    }


def _ms(ns: int) -> str:
    return f"{ns / 1e6:.0f} ms"
