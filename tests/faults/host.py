"""One program with the faults on: what ``run.py`` starts. Prints one line of JSON."""

from __future__ import annotations

import json
import sys
import threading
import time

sys.path.insert(0, sys.argv[1])

import _faults  # type: ignore[import-not-found]

_faults.fence()  # before there is anything else

from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from faults.programs import PROGRAMS, Unavailable  # noqa: E402

STEPS_EVERY_MS = 50


def sane(rows: list[Any]) -> list[str]:
    """What in the profile cannot be: a frame that no code object of this process has.

    Line 0 is where a module's code begins, as CPython has it.
    """
    wrong = set()
    for row in rows:
        for function, filename, line, start in row.frames:
            is_known = not filename or filename.startswith("<") or Path(filename).is_file()
            if not function or not is_known or line < 0 or 0 < line < start:
                wrong.add(f"{function!r} in {filename!r}, line {line}, from {start}")
    return sorted(wrong)[:5]


def profiled(run: Any, types: list[str], args: dict[str, Any]) -> dict[str, Any]:
    """Run with conprof and the faults."""
    import conprof_core as conprof
    from conprof_core._engine import choose
    from conprof_core.testing import capture

    with capture(profile_types=types) as captured:
        if conprof.stats()["engine"] != "native":
            raise RuntimeError(
                f"the portable engine runs, as {choose(None)[1] or 'it failed once'}"
            )
        number = conprof.stats()["engine_stats"]["signal_number"]
        _faults.start(number, args["rate"], args["steps"], STEPS_EVERY_MS)
        rounds = run()
        _faults.stop()
        stats = conprof.stats()
    counts = stats["engine_stats"]
    return {
        "engine": stats["engine"],
        "rounds": rounds,
        "samples": counts["samples"],
        "stale": counts["walks_carried"],
        "unwalkable": counts["unwalkable"],
        "wrong": sane(captured.rows),
    }


def run_program() -> None:
    """Run the program for a while."""
    program = PROGRAMS[sys.argv[2]]
    args = json.loads(sys.argv[3])
    began = time.monotonic()

    def run() -> int:
        return program(time.monotonic() + args["seconds"])

    try:
        if args["control"]:
            _faults.start(0, args["rate"], args["steps"], STEPS_EVERY_MS)
            said: dict[str, Any] = {"rounds": run()}
            _faults.stop()
        else:
            said = profiled(run, args["types"].split(","), args)
    except Unavailable as error:
        _faults.stop()
        said = {"unavailable": str(error)}
    said |= _faults.counts()
    print(json.dumps(said | {"took": time.monotonic() - began}))


def main() -> None:
    """In a thread, whose first chunk of frames is already one that can be fenced."""
    failed: list[BaseException] = []

    def target() -> None:
        try:
            run_program()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


if __name__ == "__main__":
    main()
