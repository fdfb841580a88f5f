"""Runs one program in one environment, bounded, and gathers what it left."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cruel import build
from cruel.cells import Cell, Smallest
from cruel.enter import NO_PREMISE, NOT_RUN

SCRIPT = Path(__file__).parent / "enter.py"
TICK_US = 100  # how often the other signal comes where the smallest stack is sought
ENGINES = ("off", "native", "portable")


@dataclass
class Outcome:
    """What one run left.

    Attributes:
        how: ``status 0``, ``SIGSEGV``, ``hangs`` ...
        cpu_ns: of the process and the children that it waited for, as the kernel says.
        exit_s: from the last event to the end.
        refusal: why the environment cannot be had, or "".
    """

    how: str
    stdout: str = ""
    stderr: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    profiles: Path = Path()
    pid: int = 0
    cpu_ns: int = 0
    seconds: float = 0.0
    exit_s: float = 0.0
    refusal: str = ""
    threads: str = ""

    def last(self, what: str) -> dict[str, Any] | None:
        """Return the last event of this kind of the process itself."""
        return next((e for e in reversed(self.events) if e["what"] == what), None)

    def took(self) -> dict[str, float]:
        """Return name → the longest time that it took."""
        longest: dict[str, float] = {}
        for each in self.events:
            if each["what"] == "took":
                longest[each["of"]] = max(longest.get(each["of"], 0.0), each["s"])
        return longest


class Runner:
    """Runs cells below a directory."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._smallest: dict[str, int] = {}
        libraries = scratch / "libraries"
        libraries.mkdir()
        self.no_libraries = build.compile_all(libraries)
        self._environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("CONPROF_", "BLACKFIRE_", "PLATFORM_", "OTEL_", "PYTHON", "LD_"))
        }
        self._environment["CRUEL_LIBRARIES"] = str(libraries)
        self._environment["CRUEL_MACHINE"] = platform.machine()
        self._libpython = build.libpython()
        if self._libpython:
            self._environment["CRUEL_LIBPYTHON"] = str(self._libpython)
        for folder in (scratch, libraries):
            folder.chmod(0o755)

    def why_not(self, cell: Cell) -> str:
        """Return why this cell cannot run here, as far as that is known beforehand."""
        if cell.in_host and self._libpython is None:
            return "this interpreter has no shared libpython"
        takes_compiler = cell.in_host or cell.program.startswith("stacks.")
        if self.no_libraries and (takes_compiler or cell.name in ("time/leaps", "signals/longjmp")):
            return self.no_libraries
        return ""

    def run(self, cell: Cell, engine: str) -> Outcome:
        """Run a cell with an engine."""
        return self._run(cell, engine, self._arguments(cell, engine))

    def smallest(self, kind: str) -> int:
        """Return the size of stack at which the program of these cells lives without us.

        It lives through any other signal too: one with an empty handler ticks meanwhile.
        """
        if kind not in self._smallest:
            low, high, step = (1024, 65536, 256) if kind == "alternate" else (16384, 1 << 20, 4096)
            while high - low > step:
                middle = (low + high) // 2 // step * step
                if self._survives(kind, middle):
                    high = middle
                else:
                    low = middle
            self._smallest[kind] = high
        return self._smallest[kind]

    def _survives(self, kind: str, size: int) -> bool:
        arguments = [size, False, TICK_US] if kind == "alternate" else [size, TICK_US]
        cell = Cell(f"smallest-{kind}", f"stacks.{kind}")
        name = f"stack/{'signal' if kind == 'alternate' else 'thread'}-too-small"
        outcome = self._run(cell, "off", arguments, name)
        return outcome.how == "status 0" and "worked" in outcome.stdout

    def _arguments(self, cell: Cell, engine: str) -> list[Any]:
        given = [
            self.smallest(item.kind) + item.plus if isinstance(item, Smallest) else item
            for item in cell.arguments
        ]
        # Without us another signal comes in our place: its handler is empty.
        is_truth = engine == "off" and cell.program in ("stacks.alternate", "stacks.thread")
        return [*given, TICK_US] if is_truth else given

    def _run(self, cell: Cell, engine: str, arguments: list[Any], known_as: str = "") -> Outcome:
        where = self._scratch / f"{cell.name.replace('/', '.')}-{engine}-{time.monotonic_ns()}"
        (where / "tree" / "profiles").mkdir(parents=True)
        for folder in (where, where / "tree", where / "tree" / "profiles"):
            folder.chmod(0o777)
        with contextlib.ExitStack() as files:
            report, out, err = (
                files.enter_context(open(where / name, "w+b")) for name in ("report", "out", "err")
            )
            command = [sys.executable, "-I", "-S", str(SCRIPT), "1", known_as or cell.name]
            began = time.monotonic()
            process = subprocess.Popen(
                [*command, engine, str(report.fileno()), json.dumps(arguments)],
                cwd=where / "tree",
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                pass_fds=[report.fileno()],
                start_new_session=True,
            )
            outcome = _wait(process, cell.timeout_s)
            outcome.seconds = time.monotonic() - began
            outcome.exit_s = time.time() - os.fstat(report.fileno()).st_mtime
            outcome.stdout, outcome.stderr, lines = (
                (where / name).read_text(errors="replace") for name in ("out", "err", "report")
            )
        outcome.events = [json.loads(line) for line in lines.splitlines()]
        outcome.profiles = where / "tree" / "profiles"
        outcome.files = sorted(os.listdir(where / "tree"))
        if outcome.how in (f"status {NOT_RUN}", f"status {NO_PREMISE}"):
            refused = outcome.last("refused")
            if refused:
                outcome.refusal = refused["why"]
        return outcome

    def forget(self, outcome: Outcome) -> None:
        """Remove what a run has left on disk."""
        shutil.rmtree(outcome.profiles.parents[1], ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> Outcome:
    deadline = time.monotonic() + timeout_s
    threads, ended = "", 0
    while True:
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > deadline:
            threads = _threads_of(process.pid)
            _kill(process.pid)
            _, status, usage = os.wait4(process.pid, 0)
            break
        time.sleep(0.005)
    # Whoever it left behind: a hang of a child is found by the parent, which waits for it.
    _kill(process.pid)
    code = os.waitstatus_to_exitcode(status)
    process.returncode = code
    how = _signal_name(-code) if code < 0 else f"status {code}"
    return Outcome(
        how if ended else f"hangs: killed after {timeout_s:g} s",
        pid=process.pid,
        cpu_ns=int((usage.ru_utime + usage.ru_stime) * 1e9),
        threads=threads,
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _threads_of(group: int) -> str:
    """Return what each thread of each process of the group waits in."""
    found = []
    for task in Path("/proc").glob("[0-9]*/task/[0-9]*"):
        try:
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == group and len(found) < 40:
                parts = [(task / name).read_text().strip() for name in ("comm", "wchan", "syscall")]
                found.append(f"{task.parts[2]}/{task.name} {fields[0]} {' '.join(parts)[:80]}")
        except OSError:
            continue
    return "\n".join(found)
