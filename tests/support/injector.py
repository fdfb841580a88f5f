"""Source for scripts of tests: an exception at the start of the n-th function of ours."""

from __future__ import annotations

INJECTOR = """
import os, sys
import conprof_core as conprof
from conprof_core import _log

PARTS = tuple(
    os.path.join(os.path.dirname(os.path.dirname(conprof.__file__)), part)
    for part in ("conprof_core", "conprof_django", "conprof_flask", "conprof_asgi")
)

# Whose whole body stands under a guard, or which only compare: they do not fail as they begin.
WHOLE = {
    "is_running", "note_rule", "_enter", "_end", "end", "body_or_itself", "bind_late",
    "_serve_async", "__enter__", "__exit__",
}

class Injected(Exception):
    pass

class Inject:
    # Only where conprof itself is the caller; the guard and the log are what all else relies on.
    def __init__(self, step):
        self.step, self.steps, self.where = step, 0, None
    def __call__(self, frame, event, arg):
        caller = frame.f_back
        if (
            event == "call" and caller is not None
            and caller.f_code.co_filename.startswith(PARTS)
            and frame.f_code.co_filename.startswith(PARTS)
            and not frame.f_code.co_filename.endswith("_log.py")
            and frame.f_code.co_name not in WHOLE
        ):
            self.steps += 1
            if self.steps == self.step:
                self.where = (os.path.basename(frame.f_code.co_filename), frame.f_code.co_name)
                sys.setprofile(None)
                raise Injected(self.where)
"""
