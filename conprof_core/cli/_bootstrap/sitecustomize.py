"""Starts profiling in a program that ``conprof run`` started, and in its Python children.

Python imports this module at start because ``conprof run`` puts its directory first on
``PYTHONPATH``. A ``sitecustomize`` of the user's own runs as well, and the program sees
``sys.path`` as if this directory had never been there. Nothing here may keep the program from
running.
"""

from __future__ import annotations


def _start() -> None:
    import os
    import sys

    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != here]
    _run_shadowed(sys)
    if os.environ.get("CONPROF_RUN_CHILDREN") == "0":
        # Asked to profile this process alone: its children find their environment untouched.
        paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        rest = os.pathsep.join(path for path in paths if os.path.abspath(path) != here)
        os.environ.pop("CONPROF_RUN_CHILDREN", None)
        if rest:
            os.environ["PYTHONPATH"] = rest
        else:
            os.environ.pop("PYTHONPATH", None)
    try:
        from conprof_core._profiler import start_launched

        start_launched()
    except Exception as error:
        # In the process that was asked for, say so. A child may well be another Python, where
        # conprof is not installed, and there it is nobody's concern.
        if os.environ.get("CONPROF_RUN_PID") == str(os.getpid()):
            sys.stderr.write(f"conprof: this program runs without profiling: {error}\n")


def _run_shadowed(sys) -> None:  # type: ignore[no-untyped-def]
    """Import the ``sitecustomize`` that this one stands in front of, if there is one."""
    from importlib import import_module

    mine = sys.modules.pop("sitecustomize", None)
    try:
        import_module("sitecustomize")
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
        if mine is not None:
            sys.modules["sitecustomize"] = mine


_start()
