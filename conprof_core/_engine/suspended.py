"""Wall time of asyncio tasks: what suspended tasks wait for, by their await chain and labels.

A suspended task is on no thread's stack, so no look at threads sees it. This look takes the GIL; it
is short (at most ``MAX_TASKS`` tasks, of more a part that stands for all) and rare (it takes at
most a two-hundredth of the time).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from types import CodeType
from typing import Any, Final
from weakref import ReferenceType

from conprof_core import _log
from conprof_core._engine.await_chain import await_chain
from conprof_core._engine.task_population import all_tasks, cell_of

__all__ = ["MAX_TASKS", "SuspendedTasks"]

MAX_TASKS: Final = 300
"""Tasks walked in one look."""

_INTERVAL_S: Final = 0.1
_IDLE_INTERVAL_S: Final = 5.0
_COST_RATIO: Final = 200

Charge = Callable[[list[tuple[CodeType, int]], object, int], None]


class SuspendedTasks:
    """The look, to be called again and again from a thread of the engine.

    Args:
        charge: takes frames (leaf first, code and instruction offset), label cell, nanoseconds.
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
        self._last_ns = 0
        self._phase = int.from_bytes(os.urandom(2), "big")

    def look(self) -> float:
        """Charge suspended tasks for the time since the last look; return seconds to the next."""
        began = time.perf_counter_ns()
        last, self._last_ns = self._last_ns, began
        # A part of a second, or there was a pause, a fork or nothing to see before.
        elapsed_ns = began - last if 0 < began - last < 10**9 * 2 * _IDLE_INTERVAL_S else 0
        tasks = sys.modules.get("asyncio.tasks")
        if tasks is None or not hasattr(tasks, "all_tasks"):
            return _IDLE_INTERVAL_S
        with _log.guard("tasks"):
            seen = self._charge_all(tasks, elapsed_ns)
            if not seen:
                return _INTERVAL_S * 10
        cost_s = (time.perf_counter_ns() - began) / 1e9
        # Uneven, so that looks do not fall into step with periodic work.
        self._phase = (self._phase * 75 + 74) % 65_537
        return max(_INTERVAL_S, cost_s * _COST_RATIO) * (0.5 + self._phase / 65_537)

    def _charge_all(self, tasks: Any, elapsed_ns: int) -> int:
        population = all_tasks(tasks, self._running_loops)
        step = -(-len(population) // MAX_TASKS) or 1
        chosen = population[self._phase % step :: step]
        if not chosen or not elapsed_ns:
            return len(population)
        weight = elapsed_ns * len(population) // len(chosen)
        for reference in chosen:
            task = reference() if isinstance(reference, ReferenceType) else reference
            if task is None or task.done():
                continue
            chain = await_chain(task.get_coro())
            # A task that runs stands on a thread's stack.
            if not chain.is_running:
                frames = [(frame.f_code, frame.f_lasti) for frame in reversed(chain.frames)]
                self._charge(frames, cell_of(task, self._variable), weight)
        return len(population)
