"""``conprof run``: any Python program, profiled without a change to its code, children included.

The program replaces this process and keeps its pid, so signals, exit status and supervisors work as
without conprof. Options become the environment variables of the same meaning; what a program passes
to ``start()`` itself is explicit and wins.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping
from typing import Final

from conprof_core._config import load
from conprof_core.errors import ConfigError

__all__ = ["add_parser", "run"]

_EPILOG = """\
examples:
  conprof run script.py --its --arguments
  conprof run -m mypackage.module
  conprof run --export-to file:///tmp/profiles -- gunicorn shop.wsgi
  conprof run --types cpu,wall --export-to file:///tmp/profiles job.py
  conprof run --app-name shop -- python manage.py runserver --noreload

Options of conprof come before the program. Children are profiled too when they are Python programs
that keep the environment; --no-children leaves them out. Python options that ignore the environment
(-I, -E) or site (-S) leave profiling out.
"""

# Flag of the command line → (option of Config, variable that carries it to the program).
_FLAGS: Final[Mapping[str, tuple[str, str]]] = {
    "export_to": ("export_to", "CONPROF_EXPORT_TO"),
    "app_name": ("application_name", "BLACKFIRE_CONPROF_APP_NAME"),
    "rate": ("cpu_profile_rate", "BLACKFIRE_CONPROF_CPU_PROFILERATE"),
    "types": ("profile_types", "CONPROF_PROFILE_TYPES"),
    "period": ("period", "BLACKFIRE_CONPROF_PERIOD"),
    "agent_socket": ("agent_socket", "BLACKFIRE_AGENT_SOCKET"),
    "engine": ("engine", "CONPROF_ENGINE"),
    "labels": ("labels", "CONPROF_LABELS"),
    "log_level": ("log_level", "BLACKFIRE_LOG_LEVEL"),
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the parser of this verb."""
    parser = subparsers.add_parser(
        "run",
        help="run a Python program with profiling on",
        description="Run a Python program with profiling on, without a change to its code.",
        usage="conprof run [options] [--] PROGRAM [arguments]",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--export-to",
        metavar="URL",
        action="append",
        help="where profiles go, as file:///directory or blackfire:; may be given again",
    )
    parser.add_argument("--app-name", metavar="NAME", help="name of the service")
    parser.add_argument("--rate", metavar="HZ", help="samples per second of CPU time")
    parser.add_argument("--types", metavar="LIST", help="what is measured, as cpu,wall,heap,tasks")
    parser.add_argument("--period", metavar="SECONDS", help="seconds from one upload to the next")
    parser.add_argument("--agent-socket", metavar="URL", help="where the Blackfire Agent listens")
    parser.add_argument("--engine", metavar="NAME", help="native or portable")
    parser.add_argument("--labels", metavar="K=V,...", help="labels of the process")
    parser.add_argument("--log-level", metavar="N", help="1 errors ... 4 debugging")
    parser.add_argument("--no-children", action="store_true", help="do not profile child processes")
    parser.add_argument("-m", dest="module", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.add_argument("program", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Replace this process by the program; returns only when that is not possible."""
    program = list(args.program)
    if args.module:
        program = ["-m", *args.module, *program]
    elif program[:1] == ["--"]:
        program = program[1:]
    if not program:
        print("conprof run: name the program to run, see conprof run --help", file=sys.stderr)
        return 2
    try:
        chosen = _chosen(args)
    except ConfigError as error:
        print(f"conprof run: {error}", file=sys.stderr)
        return 2
    command = _command(program)
    executable = shutil.which(command[0])
    if executable is None:
        print(f"conprof run: {command[0]}: command not found", file=sys.stderr)
        return 127
    environ = _environment(chosen, children=not args.no_children)
    sys.stdout.flush()
    sys.stderr.flush()
    return _replace(executable, command, environ)


def _chosen(args: argparse.Namespace) -> dict[str, str]:
    """Return variable → text for what was given, checked before the program starts."""
    given: dict[str, object] = {}
    chosen: dict[str, str] = {}
    for flag, (option, variable) in _FLAGS.items():
        value = getattr(args, flag)
        if value is None:
            continue
        given[option] = value
        chosen[variable] = ",".join(value) if isinstance(value, list) else value
    load(given, {})
    return chosen


def _command(program: list[str]) -> list[str]:
    """Return what to execute: a script or ``-m module`` runs under this very Python."""
    first = program[0]
    if first.startswith("-") or (first.endswith((".py", ".pyz")) and os.path.exists(first)):
        return [sys.executable, *program]
    if shutil.which(first) is None and os.path.isfile(first):
        return [sys.executable, *program]
    return program


def _environment(chosen: Mapping[str, str], *, children: bool) -> dict[str, str]:
    bootstrap = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_bootstrap")
    environ = {**os.environ, **chosen}
    inherited = environ.get("PYTHONPATH")
    environ["PYTHONPATH"] = os.pathsep.join([bootstrap, inherited] if inherited else [bootstrap])
    environ["CONPROF_RUN_PID"] = str(os.getpid())
    environ["CONPROF_RUN_CHILDREN"] = "1" if children else "0"
    return environ


def _replace(executable: str, command: list[str], environ: dict[str, str]) -> int:
    if os.name == "posix":
        os.execve(executable, command, environ)
    import subprocess

    # exec on Windows starts another process and returns to the shell at once.
    with subprocess.Popen(command, executable=executable, env=environ) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # the console sends it to the program as well
                continue
