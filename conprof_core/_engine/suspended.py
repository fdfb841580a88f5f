"""Wall time of asyncio tasks: what suspended tasks wait for, by their await chain and labels.

A suspended task is on no thread's stack, so no look at threads sees it. This look takes the GIL; it
reads at most ``MAX_TASKS`` tasks, of more a part that stands for all, and takes at most a
two-hundredth of the time. Where reading is slow, fewer are read in each look, and looks stay as
frequent: how many tasks there are is known at every look without reading them, and what is missed
between two looks no scaling brings back.

What a look has seen stands for the time around it, half of the way to the looks before and after.
So a task that begins or ends between two looks counts for the half, which is right on average.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple
from weakref import ReferenceType

from conprof_core import _log
from conprof_core._engine.await_chain import await_chain
from conprof_core._engine.task_population import all_tasks, cell_of
from conprof_core._engine.task_states import NEAR_LEAF, lock_kind, state_of_stack
from conprof_core._threads import new_lock

__all__ = ["MAX_TASKS", "SuspendedTasks"]

MAX_TASKS: Final = 300
"""Tasks walked in one look."""

_MIN_TASKS: Final = 10
_INTERVAL_S: Final = 0.1
_LONG_INTERVAL_S: Final = 0.5  # longer only if the population alone takes so long, or fewer than
# _MIN_TASKS would have to be read
_ABSENT_INTERVAL_S: Final = 5.0
_PAUSE_NS: Final = 2 * 5_000_000_000
_COST_RATIO: Final = 200

Charge = Callable[[list[tuple[CodeType, int]], object, int, int], None]


class _Seen(NamedTuple):
    frames: list[tuple[CodeType, int]]  # leaf first, with the instruction's offset
    cell: object
    kind: int  # of wait for a lock


class SuspendedTasks:
    """The look, to be called again and again from a thread of the engine.

    Args:
        charge: takes frames (leaf first, code and instruction offset), label cell, nanoseconds, and
            the kind of lock that is waited for.
        variable: the context variable that holds the label cell.
        running_loops: the loops that run now, where the interpreter lists tasks by loop.
    """

    def __init__(
        self,
        charge: Charge,
        variable: ContextVar[Any],
        running_loops: Callable[[], list[Any]],
    ) -> None:
        self._charge = charge
        self._variable = variable
        self._running_loops = running_loops
        self._phase = int.from_bytes(os.urandom(2), "big")
        self._busy = new_lock()
        # Of the last look: when, what it saw, of how many each is one, the time before it.
        self._last_ns = 0
        self._seen: list[_Seen] = []
        self._scale = 1.0
        self._before_ns = 0
        self._max_read = MAX_TASKS
        self._looks = self._tasks_read = 0

    def counters(self) -> dict[str, int]:
        """Return how often was looked, and how many tasks were read in all."""
        return {"wall_task_looks": self._looks, "wall_tasks_read": self._tasks_read}

    def look(self) -> float:
        """See where tasks stand, and charge the look before; return seconds to the next."""
        tasks = sys.modules.get("asyncio.tasks")
        if tasks is None or not hasattr(tasks, "all_tasks"):
            return _ABSENT_INTERVAL_S
        if not self._busy.acquire(False):
            return _INTERVAL_S
        # CPU time: what the look waits for, the GIL first of all, it takes from nobody.
        began = time.thread_time_ns()
        population = 0
        try:
            with _log.guard("tasks"):
                population = self._look(tasks)
        finally:
            self._busy.release()
        if not population:
            return _LONG_INTERVAL_S
        cost_s = (time.thread_time_ns() - began) / 1e9
        # Uneven, so that looks do not fall into step with periodic work.
        self._phase = (self._phase * 75 + 74) % 65_537
        return max(_INTERVAL_S, cost_s * _COST_RATIO) * (0.5 + self._phase / 65_537)

    def close_window(self) -> None:
        """Charge all time until now: a window ends. Any thread."""
        tasks = sys.modules.get("asyncio.tasks")
        if tasks is None or not self._last_ns or not self._busy.acquire(False):
            return
        try:
            with _log.guard("tasks"):
                self._look(tasks)
                self._settle(0)
                self._before_ns = 0
        finally:
            self._busy.release()

    def _look(self, tasks: Any) -> int:
        began = time.thread_time_ns()
        population = all_tasks(tasks, self._running_loops)
        now = time.monotonic_ns()
        elapsed_ns = now - self._last_ns
        if not 0 < elapsed_ns < _PAUSE_NS:
            elapsed_ns = 0  # there was a pause, a fork, or no asyncio
        self._last_ns = now
        self._settle(elapsed_ns)
        step = -(-len(population) // self._max_read) or 1
        chosen = population[self._phase % step :: step]
        listed = time.thread_time_ns()
        self._seen = [seen for seen in map(self._see, chosen) if seen is not None]
        self._scale = len(population) / (len(chosen) or 1)
        self._before_ns = elapsed_ns
        self._looks += bool(population)
        self._tasks_read += len(self._seen)
        if chosen:
            each_ns = max(1, (time.thread_time_ns() - listed) // len(chosen))
            budget_ns = int(_LONG_INTERVAL_S * 1e9) // _COST_RATIO - (listed - began)
            self._max_read = min(MAX_TASKS, max(_MIN_TASKS, budget_ns // each_ns))
        return len(population)

    def _settle(self, after_ns: int) -> None:
        """Charge what the last look saw for half of the times before and after it."""
        weight = int((self._before_ns + after_ns) / 2 * self._scale)
        if weight:
            for frames, cell, kind in self._seen:
                self._charge(frames, cell, weight, kind)

    def _see(self, reference: Any) -> _Seen | None:
        task = reference() if isinstance(reference, ReferenceType) else reference
        if task is None or task.done():
            return None
        chain = await_chain(task.get_coro())
        if chain.is_running:
            return None  # it stands on a thread's stack
        frames = [(frame.f_code, frame.f_lasti) for frame in reversed(chain.frames)]
        return _Seen(frames, cell_of(task, self._variable), _kind_of(chain.frames))


def _kind_of(frames: list[FrameType]) -> int:
    """Return the kind of lock that a chain, root first, waits for."""
    codes = [frame.f_code for frame in frames[: -NEAR_LEAF - 1 : -1]]
    # Nothing of a place but its function and file matters for its state.
    return lock_kind(state_of_stack([(code.co_qualname, code.co_filename, 0, 0) for code in codes]))
