"""Entry point of the ``conprof`` command: finds the verb, imports it alone, runs it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

from conprof_core._version import __version__

__all__ = ["VERBS", "main"]

VERBS: Final = {
    "run": "run a Python program with profiling on",
    "doctor": "say what works here, what does not, and why",
    "agent": "run a local agent with a viewer",
    "demo": "show the viewer with a program that profiles itself",
    "tasks": "show where the threads, tasks and greenlets of a process stand",
    "report": "print a table from stored or saved profiles",
    "diff": "compare two profiles",
}

_EXIT_USAGE: Final = 2
_EXIT_INTERRUPTED: Final = 130


def _overview() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="conprof",
        description="Always-on profiling for Python web applications.",
        epilog="'conprof VERB --help' describes a verb.",
    )
    parser.add_argument("--version", action="version", version=f"conprof {__version__}")
    subparsers = parser.add_subparsers(metavar="VERB", dest="verb", required=True)
    for verb, line in VERBS.items():
        subparsers.add_parser(verb, help=line, add_help=False)
    return parser


def _load(verb: str) -> Any:
    """Import the module of a verb; a missing extra is told in words."""
    try:
        return import_module(f"conprof_core.cli.{verb}")
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if not missing or missing == "conprof_core":
            print(f"conprof {verb}: not part of this installation ({error})", file=sys.stderr)
        else:
            print(
                f"conprof {verb} needs the package {missing}: pip install 'conprof[agent]'",
                file=sys.stderr,
            )
        return None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Status 2 is wrong usage or a missing extra, 130 an interrupt; other values are the verb's.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = next((word for word in arguments if not word.startswith("-")), None)
    if verb not in VERBS or arguments[0] != verb:
        _overview().parse_args(arguments)  # prints help, version or the error, and exits
        return _EXIT_USAGE
    module = _load(verb)
    if module is None:
        return _EXIT_USAGE
    parser = argparse.ArgumentParser(prog="conprof")
    module.add_parser(parser.add_subparsers(dest="verb"))
    try:
        status = int(module.run(parser.parse_args(arguments)))
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader has gone, as with `| head`. Python would complain again while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
