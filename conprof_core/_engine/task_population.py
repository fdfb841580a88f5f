"""All asyncio tasks of the process, whatever loop they belong to, and the labels of each.

CPython keeps scheduled and eager tasks in two sets, and from 3.14 on in a list for each thread that
only the task's own loop leads to.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from contextvars import Context, ContextVar
from types import CodeType, FrameType
from typing import Any, Final

__all__ = ["all_tasks", "cell_of", "loops_on_stacks"]

_MAX_DEPTH: Final = 2_000


def all_tasks(tasks: Any, running_loops: Callable[[], list[Any]]) -> list[Any]:
    """Return tasks, or weak references to them; each set in one C call, so that none is torn.

    Args:
        tasks: the module ``asyncio.tasks``.
        running_loops: the loops that run now, where the interpreter lists tasks by loop.
    """
    found: list[Any] = list(getattr(tasks, "_eager_tasks", ()))
    scheduled = getattr(tasks, "_scheduled_tasks", None)
    if scheduled is None:  # 3.11
        scheduled = getattr(tasks, "_all_tasks", None)
    if scheduled is not None:
        found += list(scheduled.data)
    if sys.version_info >= (3, 14):
        for loop in running_loops():
            found += tasks.all_tasks(loop)
    return found


def cell_of(task: Any, variable: ContextVar[Any]) -> Any:
    """Return the label cell of a task's context, or ``None``."""
    if hasattr(task, "get_context"):
        context = task.get_context()
    else:  # before 3.12 only the collector knows
        context = next((one for one in gc.get_referents(task) if type(one) is Context), None)
    return None if context is None else context.get(variable)


def loops_on_stacks() -> list[Any]:
    """Return the loops that run now, found in the frames that run them; needs no extension.

    ``asyncio.Runner`` knows its loop whatever its type is; a loop in pure Python is known by
    ``run_forever``.
    """
    codes = _runner_codes()
    found: list[Any] = []
    for leaf in sys._current_frames().values():
        frame: FrameType | None = leaf
        depth = 0
        while frame is not None and depth < _MAX_DEPTH:
            if frame.f_code in codes:
                owner = frame.f_locals.get("self")
                loop = getattr(owner, "_loop", owner)
                if loop is not None and all(loop is not known for known in found):
                    found.append(loop)
            frame = frame.f_back
            depth += 1
    return found


def _runner_codes() -> list[CodeType]:
    functions = []
    runners = sys.modules.get("asyncio.runners")
    if runners is not None:
        functions.append(runners.Runner.run)
    base_events = sys.modules.get("asyncio.base_events")
    if base_events is not None:
        functions.append(base_events.BaseEventLoop.run_forever)
    return [function.__code__ for function in functions]
