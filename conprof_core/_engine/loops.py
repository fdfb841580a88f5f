"""Which threads run an asyncio loop, and the descriptor that each loop waits on.

What the looker needs to tell a loop that waits for something to do from a callback that keeps it;
see ``_native/blocked.h``. Nothing of a loop is changed or called that does anything.
"""

from __future__ import annotations

import selectors
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from conprof_core import _log

__all__ = ["LoopWatch", "descriptor_of"]

_INTERVAL_S: Final = 1.0
_SHORTEST_S: Final = 0.02


class LoopWatch:
    """Tells the engine of the loops that run now; with the GIL, again and again.

    Args:
        loop_threads: (native id of the thread, loop) for each.
        watch_loops: takes (native id of the thread, descriptor) for each; others are let go.
        look_at_tasks: another look that needs the GIL; returns seconds to the next.
    """

    def __init__(
        self,
        loop_threads: Callable[[], list[tuple[int, Any]]],
        watch_loops: Callable[[list[tuple[int, int]]], None],
        look_at_tasks: Callable[[], float],
    ) -> None:
        self._loop_threads = loop_threads
        self._watch_loops = watch_loops
        self._look_at_tasks = look_at_tasks
        self._tasks_due = 0.0
        self._had_any = False

    def look(self) -> float:
        """Do both looks, as far as they are due; return seconds to the next."""
        with _log.guard("loops"):
            self._tell()
        now = time.monotonic()
        if now >= self._tasks_due:
            self._tasks_due = now + self._look_at_tasks()
        left = max(_SHORTEST_S, self._tasks_due - now)
        return min(left, _INTERVAL_S) if "asyncio" in sys.modules else left

    def _tell(self) -> None:
        """Say which loops run; one of which nobody knows how it waits is left out."""
        pairs = []
        for thread, loop in self._loop_threads():
            descriptor = descriptor_of(loop)
            if descriptor >= 0:
                pairs.append((thread, descriptor))
        if pairs or self._had_any:
            self._watch_loops(pairs)
        self._had_any = bool(pairs)


def descriptor_of(loop: Any) -> int:
    """Return the epoll descriptor that a loop waits on, or -1: asyncio's own loops, and uvloop."""
    try:
        selector = getattr(loop, "_selector", None)
        if selector is not None:
            epoll = getattr(selectors, "EpollSelector", None)
            known = epoll is not None and isinstance(selector, epoll)
            return int(selector.fileno()) if known else -1
        backend = getattr(loop, "_get_backend_id", None)
        return int(backend()) if backend is not None else -1
    except Exception:  # closed, or a loop that looks like one of these and is none
        return -1
