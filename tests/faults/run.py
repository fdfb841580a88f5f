"""Programs under faults: chunks of frames that are unmapped at once, poison above the top, and a
walk at any instruction.

    python tests/faults/run.py                          every program, five minutes together
    python tests/faults/run.py --seconds 60 tree_walk coroutines
    python tests/faults/run.py --state FILE             goes on where FILE says
    python tests/faults/run.py --control                without conprof: the faults alone do no harm
    python tests/faults/run.py --tree DIR               of the conprof that is built in place there

What the faults are is written in ``faults.c``. Each program runs in a process of its own, checks
its own results, and must end as if nothing had happened; the profile may name only what there is.
Each line says how often the faults came: signals and single steps that arrived, chunks that were
made inaccessible, fills with poison, walks of conprof's, and samples.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from faults.programs import PROGRAMS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SIGNALS_PER_S = 20_000
STEPS_IN_A_ROW = 2_000
SLACK_S = 180  # for what a program does at its end, on a loaded machine
ALL_TYPES = "cpu,wall,heap"


def build(place: Path) -> None:
    """Compile the test extension for this interpreter."""
    include = Path(sysconfig.get_path("include"))
    flags = []
    if "datastack_cached_chunk" in (include / "cpython" / "pystate.h").read_text():
        flags.append("-DHAVE_CACHED_CHUNK=1")
    target = place / f"_faults{sysconfig.get_config_var('EXT_SUFFIX')}"
    command = [os.environ.get("CC", "gcc"), "-shared", "-fPIC", "-O2", "-g", "-std=gnu11"]
    command += ["-Wall", "-Wextra", "-Werror", *flags, "-I", str(include), "-o", str(target)]
    command += [str(path) for path in sorted(HERE.glob("*.c"))] + ["-lpthread", "-lrt"]
    subprocess.run(command, check=True)


def run(name: str, types: str, seconds: float, place: Path, args: argparse.Namespace) -> Any:
    """Run one program; what it said, with "failed" when it is not as it should be."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("CONPROF_", "BLACKFIRE_"))
    }
    if args.tree:
        environment["PYTHONPATH"] = str(args.tree.resolve())
    settings = {
        "seconds": seconds,
        "rate": args.rate,
        "steps": args.steps,
        "control": args.control,
        "types": types,
    }
    command = [sys.executable, "-X", "faulthandler", str(HERE / "host.py"), str(place), name]
    try:
        done = subprocess.run(
            [*command, json.dumps(settings)],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds + SLACK_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"still running after {seconds + SLACK_S:.0f} s"}
    if done.returncode < 0:
        tail = " | ".join(done.stderr.strip().splitlines()[:4])
        return {"failed": f"{signal.Signals(-done.returncode).name} {tail}"}
    if done.returncode != 0:
        return {"failed": (done.stderr.strip().splitlines() or ["no output"])[-1]}
    said = json.loads(done.stdout.splitlines()[-1])
    failed = judge(said, args)
    return said | {"failed": failed} if failed else said


def judge(said: dict[str, Any], args: argparse.Namespace) -> str:
    """Return what is wrong with what a program said, or was not proven by it."""
    if "unavailable" in said:
        return ""
    wanted = ["rounds", "signals", "poisons", "ends", "chunks_fenced", "own_chunk_is_fenced"]
    wanted += ["steps"] if args.steps else []
    if not args.control:
        wanted += ["walks", "samples"]
        if said["engine"] != "native":
            return "the native engine does not run here"
        if said["wrong"]:
            return "; ".join(said["wrong"])
    missing = [what for what in wanted if not said[what]]
    if said["unfenced"]:
        return "the reserved address space was too small"
    return f"not proven: no {', '.join(missing)}" if missing else ""


def line(name: str, said: dict[str, Any]) -> str:
    """One program's line."""
    if "unavailable" in said:
        return f"{name:24} not run: {said['unavailable']}"
    if "rounds" not in said:
        return f"{name:24} FAIL  {said['failed']}"
    state = f"FAIL  {said['failed']}  " if "failed" in said else "ok  "
    text = f"{name:24} {state}{said['took']:6.1f} s  {said['signals']} signals"
    text += f", {said['steps']} steps, {said['chunks_fenced']} chunks fenced"
    text += f", {said['poisons']} fills"
    if "samples" in said:
        text += f", {said['walks']} walks: {said['samples']} samples, {said['stale']} carried"
        text += f", {said['unwalkable']} unwalkable"
    return text


def main() -> int:
    """Run the programs, print a line each, return 1 if one fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("programs", nargs="*", help=f"of {' '.join(PROGRAMS)}")
    parser.add_argument("--seconds", type=float, default=300, help="for all programs together")
    parser.add_argument("--rate", type=int, default=SIGNALS_PER_S, help="signals a second")
    parser.add_argument("--steps", type=int, default=STEPS_IN_A_ROW, help="single steps in a row")
    parser.add_argument("--state", type=Path, help="keep results here, and skip what is in it")
    parser.add_argument("--control", action="store_true", help="without conprof")
    parser.add_argument("--tree", type=Path, help="a tree whose extension is built in place")
    args = parser.parse_args()
    unknown = set(args.programs) - set(PROGRAMS)
    if unknown:
        parser.error(f"no such program: {', '.join(sorted(unknown))}")
    # One half of each program's time with the type that everybody has, one with all.
    kinds = ["cpu"] if args.control else ["cpu", ALL_TYPES]
    cells = [(name, types) for name in args.programs or PROGRAMS for types in kinds]
    known = json.loads(args.state.read_text()) if args.state and args.state.exists() else {}
    print(f"CPython {sys.version.split()[0]}, {args.rate} signals a second", flush=True)
    with tempfile.TemporaryDirectory(prefix="conprof-faults-") as place:
        build(Path(place))
        for name, types in cells:
            cell = f"{name} {types}"
            if cell not in known:
                known[cell] = run(name, types, args.seconds / len(cells), Path(place), args)
                if args.state:
                    args.state.write_text(json.dumps(known, indent=1))
            print(line(cell, known[cell]), flush=True)
    ran = [known[f"{name} {types}"] for name, types in cells]
    totals = {
        what: sum(said.get(what, 0) for said in ran)
        for what in ("signals", "steps", "chunks_fenced", "poisons", "walks", "samples")
    }
    print("together: " + ", ".join(f"{count} {what}" for what, count in totals.items()))
    failed = sum("failed" in said for said in ran)
    left_out = sum("unavailable" in said for said in ran)
    print(f"faults: {len(ran) - failed - left_out} passed, {failed} failed, {left_out} skipped")
    return 1 if failed or failed + left_out == len(ran) else 0


if __name__ == "__main__":
    raise SystemExit(main())
