"""Threads for a snapshot: all that run Python code, with what each waits for.

With the extension a thread's labels and what the kernel says that it waits for are read while the
GIL is held, so that a thread that waits for the GIL is seen doing so. Without it, the place tells.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

from conprof_core import _tracking
from conprof_core._engine.task_entry import Entry, Places, cut, items_of
from conprof_core._engine.task_locks import LockMap
from conprof_core._engine.task_states import state_of_stack
from conprof_core._threads import own_idents, thread_ident

__all__ = ["Facts", "no_facts", "thread_entries"]

Known = tuple[int, int, int, Any, list[FrameType]]
"""Id of the operating system, wait state, futex it sleeps on, label cell, frames leaf first."""

Facts = Callable[[list[int]], dict[int, Known]]

_SLICE: Final = 32
_TRIES: Final = 3

# As enum conprof_wait of wait_state.h.
_WAITS: Final = ("", "running", "waiting for the GIL", "lock", "I/O", "sleep", "I/O")

_OWN_MODULES: Final = (
    "conprof_core._loop",
    "conprof_core._threads",
    "conprof_core._engine",
    "conprof_core._tasks_socket",
)


def no_facts(idents: list[int]) -> dict[int, Known]:
    """What is known of threads without the extension: the cells that the portable engine notes."""
    stacks: dict[int, list[FrameType]] = {}
    for _ in range(_TRIES):
        # A thread that ran while its frames were read is read again.
        leaves = sys._current_frames()
        moved = [
            ident
            for ident in idents
            if ident in leaves and not _stands(stacks.get(ident), leaves[ident])
        ]
        for ident in moved:
            stacks[ident] = _stack(leaves[ident])
        leaves.clear()
        if not moved:
            break
    facts: dict[int, Known] = {}
    for ident, stack in stacks.items():
        native_id = getattr(_thread_of(ident), "native_id", None) or 0
        facts[ident] = (native_id, 0, 0, _tracking.current(ident), stack)
    return facts


def _stack(leaf: FrameType | None) -> list[FrameType]:
    frames = []
    while leaf is not None:
        frames.append(leaf)
        leaf = leaf.f_back
    return frames


def _stands(stack: list[FrameType] | None, leaf: FrameType) -> bool:
    """Whether a thread that stands at ``leaf`` has the stack that was read, root and all."""
    return stack is not None and stack[0] is leaf and stack[-1].f_back is None


def thread_entries(facts: Facts, places: Places, locks: LockMap) -> Iterator[Entry]:
    """Yield the entry of each thread of the application that has a Python stack."""
    idents = [ident for ident in sys._current_frames() if ident not in own_idents]
    caller = thread_ident()
    for begin in range(0, len(idents), _SLICE):
        for ident, known in facts(idents[begin : begin + _SLICE]).items():
            entry = _entry(ident, known, places, locks, is_caller=ident == caller)
            if entry is not None:
                yield entry


def _entry(
    ident: int, known: Known, places: Places, locks: LockMap, *, is_caller: bool
) -> Entry | None:
    native_id, wait, futex, cell, stack = known
    first = 0
    if is_caller:
        # Who asks for a snapshot stands where it was asked for, not in our own functions.
        while first < len(stack) and _is_own(stack[first], ("conprof_core",)):
            first += 1
    if first == len(stack) or _is_own(stack[-1], _OWN_MODULES):
        return None
    frames = places.of_all(stack[first:])
    waits = _WAITS[wait] if wait < len(_WAITS) else ""
    if is_caller:
        state = "running"
    elif waits in ("", "lock"):
        # The place says more than the kernel: a pool's worker waits on a lock, too.
        state = state_of_stack(frames) or waits or "waiting"
    else:
        state = waits
    thread = _thread_of(ident)
    name = "" if thread is None else str(thread.name)
    if state == "lock":
        locks.thread_wants(ident, futex, stack[first:])
    locks.note(ident, f"thread {name}", stack[first:])
    return Entry(
        "thread",
        ident,
        name,
        state,
        _age_s(native_id),
        cut(frames),
        items_of(cell),
    )


def _is_own(frame: FrameType, modules: tuple[str, ...]) -> bool:
    name = frame.f_globals.get("__name__")
    return isinstance(name, str) and any(
        name == module or name.startswith(module + ".") for module in modules
    )


def _thread_of(ident: int) -> Any:
    return threading._active.get(ident)  # type: ignore[attr-defined]


def _age_s(native_id: int) -> float | None:
    """Seconds since a thread started, from field 22 of proc(5) ``stat``; Linux only."""
    if not native_id:
        return None
    try:
        with open(f"/proc/self/task/{native_id}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started_s)
    except (OSError, ValueError, IndexError, AttributeError):
        return None
