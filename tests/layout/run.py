"""The layout matrix: the extension built against other headers than those of this interpreter.

    python tests/layout/run.py                          every cell
    python tests/layout/run.py --quick                  one of each kind, under a minute
    python tests/layout/run.py _ts 3.13.18              cells whose name contains one of these
    python tests/layout/run.py --state FILE             goes on where FILE says

Against the headers of each other patch release that can be had, and against doctored copies of this
interpreter's own: each structure that we know has a field more or less before what we read of it.
Whatever the layout, the profile is right or the portable engine runs and the doctor says why; no
crash, and no wrong number.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from layout.build import ROOT, SOURCES, BuildError, build, flags
from layout.doctored import KINDS, NoSuchCell, doctor, is_different
from layout.fields import FIELDS, QUICK, Field
from layout.headers import fetch, find

PROBE = Path(__file__).with_name("probe.py")
OWN = Path(sysconfig.get_path("include"))
PROBE_LIMIT_S = 120


@dataclass
class Result:
    """What became of a cell."""

    state: str  # native, portable, FAIL, not a cell
    detail: str


def probe(package: Path) -> Result:
    """Run the program with a build; twice when it is wrong, as a loaded machine can be."""
    first = _probe_once(package)
    if first.state != "FAIL" or first.detail.startswith("SIG"):
        return first
    return _probe_once(package)


def _probe_once(package: Path) -> Result:
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("CONPROF_", "BLACKFIRE_"))
    }
    environment["PYTHONPATH"] = str(package)
    try:
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", str(PROBE)],
            cwd=package,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PROBE_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Result("FAIL", f"still running after {PROBE_LIMIT_S} s")
    if done.returncode < 0:
        stack = [line for line in done.stderr.splitlines() if line.startswith("  File")]
        place = stack[0].strip() if stack else ""
        return Result("FAIL", f"{signal.Signals(-done.returncode).name} {place}")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return Result("FAIL", f"ended with {done.returncode}: {last}")
    said = json.loads(done.stdout.splitlines()[-1])
    if not str(said["extension"]).startswith(str(package)):
        return Result("FAIL", f"not this build was tested: {said['extension']}")
    if said["wrong"]:
        return Result("FAIL", f"{said['engine']} engine: " + "; ".join(said["wrong"]))
    return Result(said["engine"], said["reason"])


def try_headers(headers: Path, scratch: Path, sources: Path = SOURCES) -> Result:
    """Build against these headers, and run the program."""
    package = scratch / "package"
    shutil.rmtree(package, ignore_errors=True)
    try:
        build(headers, package, sources)
    except BuildError as error:
        return Result("FAIL", f"does not build: {error}")
    return probe(package)


def try_doctored(field: Field, kind: str, scratch: Path) -> Result:
    """Build with one structure of another layout, and run the program."""
    copy = scratch / ("include" if field.type else "native")

    def is_valid(doctored: Path) -> bool:
        source = scratch / "differs.c"
        return not field.type or is_different(flags(OWN), flags(doctored), field, source)

    try:
        what = doctor(OWN if field.type else SOURCES, copy, field, kind, is_valid)
    except NoSuchCell as error:
        return Result("not a cell", str(error))
    result = try_headers(copy, scratch) if field.type else try_headers(OWN, scratch, copy)
    return Result(result.state, f"{result.detail} [{what}]".strip())


def cells(args: argparse.Namespace) -> dict[str, Path | tuple[Field, str]]:
    """Every cell by its name: headers, or a field and how it is moved."""
    found: dict[str, Path | tuple[Field, str]] = {}
    if not args.quick:
        found |= {f"headers {patch}": path for patch, path in sorted(find(args.headers).items())}
    for field in FIELDS:
        for kind in KINDS:
            if not args.quick or (field.name, kind) in QUICK:
                found[f"{kind} before {field.name}"] = (field, kind)
    wanted = args.cells or [""]
    return {name: cell for name, cell in found.items() if any(part in name for part in wanted)}


def main() -> int:
    """Run the cells, print a line each, return 1 if one fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("cells", nargs="*", help="parts of names; default: all")
    parser.add_argument("--quick", action="store_true", help="a handful of doctored cells")
    parser.add_argument("--state", type=Path, help="keep results here, and skip what is in it")
    parser.add_argument(
        "--headers",
        type=Path,
        default=ROOT / ".venv" / "headers",
        help="fetched ones are kept here",
    )
    args = parser.parse_args()
    missing = [] if args.quick else fetch(args.headers)
    known = json.loads(args.state.read_text()) if args.state and args.state.exists() else {}
    counts = {"native": 0, "portable": 0, "FAIL": 0, "not a cell": 0}
    print(f"CPython {sys.version.split()[0]}, headers in {OWN}", flush=True)
    for name, cell in cells(args).items():
        began = time.monotonic()
        if name not in known:
            with tempfile.TemporaryDirectory(prefix="conprof-layout-") as place:
                result = (
                    try_headers(cell, Path(place))
                    if isinstance(cell, Path)
                    else try_doctored(*cell, Path(place))
                )
            known[name] = [result.state, result.detail]
            if args.state:
                args.state.write_text(json.dumps(known, indent=1))
        state, detail = known[name]
        counts[state] += 1
        if state != "not a cell":
            print(f"{name:48} {state:9} {time.monotonic() - began:5.1f} s  {detail}", flush=True)
    for what in missing:
        print(f"NOT RUN: {what}")
    print(f"{counts['native']} right, {counts['portable']} portable with a reason, ", end="")
    print(f"{counts['not a cell']} not in this version")
    print(f"layout: {counts['native'] + counts['portable']} passed, {counts['FAIL']} failed")
    return 1 if counts["FAIL"] or not counts["native"] + counts["portable"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
