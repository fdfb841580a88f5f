"""Workloads run as scripts in a process of their own, with a handshake instead of a sleep.

    with start_script(source) as process:      # the script prints READY when it has begun
        process.wait_ready()
        process.signal(signal.SIGTERM)
        result = process.finish()

Everything is bounded: a process that does not end in time is killed and the test fails with what
it wrote.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

READY = "READY"
TIMEOUT_S = 60.0

# Nothing of the outer environment decides what a test measures.
_FOREIGN = ("CONPROF_", "BLACKFIRE_", "PLATFORM_", "DD_", "COVERAGE_", "PYTHONPATH")
_KEPT = ("CONPROF_ENGINE",)


@dataclass(frozen=True)
class Result:
    """What a finished process left behind."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float

    def check(self) -> Result:
        """Return itself if the process ended with 0.

        Raises:
            AssertionError: it did not; with everything it wrote.
        """
        assert self.returncode == 0, self.describe()
        return self

    def describe(self) -> str:
        """Return the end of the process in words."""
        how = (
            f"signal {_name_of_signal(-self.returncode)}"
            if self.returncode < 0
            else f"status {self.returncode}"
        )
        return (
            f"ended with {how} after {self.seconds:.1f} s\n"
            f"--- stdout\n{self.stdout[-8000:]}\n--- stderr\n{self.stderr[-8000:]}"
        )


def _name_of_signal(number: int) -> str:
    """Return the name of a signal; real-time signals have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


class Running:
    """A process under way; leaving the ``with`` block kills it and its group."""

    def __init__(self, popen: subprocess.Popen[bytes], out: IO[bytes], err: IO[bytes]) -> None:
        self._popen = popen
        self._out = out
        self._err = err
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._kill()
        self._out.close()
        self._err.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    @property
    def stdout(self) -> str:
        """What it has written so far."""
        return _content(self._out)

    @property
    def stderr(self) -> str:
        """What it has written so far."""
        return _content(self._err)

    def wait_for_line(self, text: str, timeout_s: float = TIMEOUT_S) -> str:
        """Return the first line of stdout that starts with ``text``, once it is whole.

        Raises:
            AssertionError: it did not come in time, or the process ended first.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            ended = self._popen.poll() is not None
            for line in self.stdout.splitlines(keepends=True):
                if line.startswith(text) and line.endswith("\n"):
                    return line.rstrip("\n")
            if ended or time.monotonic() > deadline:
                why = "it ended first" if ended else f"not within {timeout_s:g} s"
                raise AssertionError(f"no {text!r}: {why}\n{self._result().describe()}")
            time.sleep(0.005)

    def wait_ready(self, timeout_s: float = TIMEOUT_S) -> Running:
        """Wait until the script has printed READY."""
        self.wait_for_line(READY, timeout_s)
        return self

    def signal(self, number: int) -> None:
        """Send a signal to the process itself."""
        self._popen.send_signal(number)

    def finish(self, timeout_s: float = TIMEOUT_S) -> Result:
        """Wait for the end.

        Raises:
            AssertionError: the process hangs; it was asked for its stacks and killed.
        """
        try:
            self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._popen.send_signal(signal.SIGABRT)  # with -X faulthandler: prints the stacks
            try:
                self._popen.wait(5)
            except subprocess.TimeoutExpired:
                self._kill()
            raise AssertionError(
                f"still running after {timeout_s:g} s\n{self._result().describe()}"
            ) from None
        return self._result()

    def _result(self) -> Result:
        code = self._popen.poll()
        seconds = time.monotonic() - self._began
        return Result(0 if code is None else code, self.stdout, self.stderr, seconds)

    def _kill(self) -> None:
        # The group, so that no grandchild outlives a failed test.
        try:
            os.killpg(self._popen.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        self._popen.wait()


def start_command(
    command: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str | None] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    clean_env: bool = True,
) -> Running:
    """Start a command in a session of its own, its output going to files (no pipe can fill).

    ``env`` is added to the environment, ``None`` removes a variable. With ``clean_env`` variables
    that steer a profiler are not inherited, except ``CONPROF_ENGINE``.
    """
    variables = {
        key: value
        for key, value in os.environ.items()
        if not clean_env or key in _KEPT or not key.startswith(_FOREIGN)
    }
    for key, value in (env or {}).items():
        variables.pop(key, None)
        if value is not None:
            variables[key] = value
    out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - Running closes
    popen = subprocess.Popen(
        [os.fspath(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        env=variables,
        cwd=cwd,
        start_new_session=True,
    )
    return Running(popen, out, err)


def start_script(
    source: str | Path,
    *arguments: str,
    options: Sequence[str] = (),
    env: Mapping[str, str | None] | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> Running:
    """Start a Python script: a path, or source text, which is dedented."""
    head = [sys.executable, "-X", "faulthandler", *options]
    if isinstance(source, Path):
        command = [*head, str(source), *arguments]
    else:
        command = [*head, "-c", textwrap.dedent(source), *arguments]
    unbuffered = {"PYTHONUNBUFFERED": "1", **(env or {})}
    return start_command(command, env=unbuffered, cwd=cwd)


def run_script(
    source: str | Path,
    *arguments: str,
    options: Sequence[str] = (),
    env: Mapping[str, str | None] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    timeout_s: float = TIMEOUT_S,
    check: bool = True,
) -> Result:
    """Run a Python script to its end; with ``check`` it must end with 0."""
    with start_script(source, *arguments, options=options, env=env, cwd=cwd) as process:
        result = process.finish(timeout_s)
    return result.check() if check else result


def run_command(
    command: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str | None] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    timeout_s: float = TIMEOUT_S,
    check: bool = True,
) -> Result:
    """Run a command to its end; with ``check`` it must end with 0."""
    with start_command(command, env=env, cwd=cwd) as process:
        result = process.finish(timeout_s)
    return result.check() if check else result


def _content(file: IO[bytes]) -> str:
    # pread: the child shares the file offset.
    fd = file.fileno()
    return os.pread(fd, os.fstat(fd).st_size, 0).decode(errors="replace")
