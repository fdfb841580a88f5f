"""The process under test: enters the environment of a cell, proves it, and runs the program.

usage: enter.py STAGE CELL ENGINE DESCRIPTOR ARGUMENTS

In stage 1 it enters what a process is born with and executes itself for stage 2. ENGINE is ``off``,
``native`` or ``portable``; DESCRIPTOR takes the report, ARGUMENTS are the program's, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path[:] = [
    str(Path(__file__).parents[1]),
    *(p for p in sys.path if p != str(Path(__file__).parent)),
]

from cruel import cells, programs, report  # noqa: E402 - the path must be right first
from cruel.steps import NotRun, Step  # noqa: E402

NOT_RUN, NO_PREMISE = 98, 97


def _leave(status: int, why: str) -> None:
    report.event("refused", why=why)
    os._exit(status)


def _enter(steps: tuple[Step, ...]) -> None:
    for step in steps:
        try:
            step.enter()
        except NotRun as reason:
            _leave(NOT_RUN, str(reason))


def _prove(steps: tuple[Step, ...]) -> None:
    for index, step in enumerate(steps):
        if not step.holds():
            _leave(NO_PREMISE, f"step {index} of the environment does not hold")


def _start(cell: cells.Cell, engine: str) -> None:
    import conprof_core as conprof

    types = [conprof.CPU, conprof.HEAP, conprof.WALL] if engine == "native" else [conprof.CPU]
    options = {**cells.DEFAULTS, "profile_types": types, **cell.options}
    if engine == "portable":
        options["engine"] = engine  # the native one is what is taken where it can run
    options |= {"application_name": "cruel", "export_to": f"file://{os.getcwd()}/profiles"}
    report.started_with.update(options)
    before = report.process_cpu()
    report.timed("start", lambda: conprof.start(**options))
    stats = conprof.stats()
    report.event(
        "started",
        before=before,
        after=report.process_cpu(),
        engine=stats.get("engine"),
        reason=stats.get("engine_reason"),
    )
    report.label_with(conprof.labels)


def _stop() -> None:
    import conprof_core as conprof

    before = report.process_cpu()
    report.timed("stop", conprof.stop)
    report.event("stopped", before=before, after=report.process_cpu())


def run(cell: cells.Cell, engine: str, arguments: list[object]) -> int:
    """Run the program of a cell; the status with which to end."""
    _prove(cell.before_exec)
    program, prepare = programs.find(cell.program)
    prepare(*arguments)
    _enter(cell.before_start)
    _prove(cell.before_start)
    if engine != "off":
        _start(cell, engine)
    _enter(cell.after_start)
    _prove(cell.after_start)
    try:
        status = program(*arguments)
    finally:
        report.ends()
    if cell.stops and engine != "off":
        _stop()
    if cell.stops:
        report.say("stopped")
    report.event("leaves")
    return status or 0


def main() -> int:
    """Run one stage."""
    stage, name, engine, descriptor, arguments = sys.argv[1:]
    report.open_at(int(descriptor))
    cell = cells.NAMED[name]
    if stage == "2":
        return run(cell, engine, json.loads(arguments))
    # The lowest number, so that a limit of descriptors counts from there.
    lowest = os.dup(int(descriptor))
    os.set_inheritable(lowest, True)
    os.close(int(descriptor))
    report.open_at(lowest)
    _enter(cell.before_exec)
    command = [sys.executable, __file__, "2", name, engine, str(lowest), arguments]
    if cell.in_host:
        command = [os.environ["CRUEL_LIBRARIES"] + "/host", os.environ["CRUEL_LIBPYTHON"], *command]
    os.execv(command[0], command)
    return 1


if __name__ == "__main__":
    sys.exit(main())
