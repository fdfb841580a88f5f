"""asyncio tasks for a snapshot: where each stands, what it waits for, and who waits for it.

A task that other tasks await, directly or through ``gather``, ``wait``, ``shield`` or a
``TaskGroup``, has their frames below its own: the stack of a task begins where its work began.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import FunctionType
from typing import Any, Final
from weakref import ReferenceType

from conprof_core._engine.await_chain import Chain, await_chain
from conprof_core._engine.task_entry import Ages, Entry, Frame, Places, items_of
from conprof_core._engine.task_locks import LockMap
from conprof_core._engine.task_population import all_tasks, cell_of
from conprof_core._engine.task_states import state_of_stack

__all__ = ["TASK_ROOT", "task_entries"]

TASK_ROOT: Final[Frame] = ("[asyncio task]", "", 0, 0)

_MAX_AWAITERS: Final = 32
_TRIES: Final = 3


class _Reader:
    """Reads the tasks of one snapshot. For one thread."""

    def __init__(
        self, tasks: Any, variable: ContextVar[Any], places: Places, ages: Ages, locks: LockMap
    ) -> None:
        self._task_type = tasks.Task
        self._python_task_type = getattr(tasks, "_PyTask", tasks.Task)
        self._future_type = tasks.futures.Future
        self._python_future_type = getattr(tasks.futures, "_PyFuture", tasks.futures.Future)
        self._gathering_type = getattr(tasks, "_GatheringFuture", ())
        groups = sys.modules.get("asyncio.taskgroups")
        self._group_type = getattr(groups, "TaskGroup", ())
        self._variable = variable
        self._places = places
        self._ages = ages
        self._locks = locks
        self._own: dict[int, tuple[Any, list[Frame]]] = {}  # of tasks that others are awaited by

    def entry(self, task: Any, count: int) -> Entry | None:
        """Return a task's entry; ``None`` when it has ended."""
        if task.done():
            return None
        for _ in range(_TRIES):
            waiter = getattr(task, "_fut_waiter", None)
            chain = await_chain(task.get_coro())
            frames = self._places.of_all(reversed(chain.frames))
            # Each wait has a future of its own: with the same before and after, nothing moved.
            if chain.is_running or getattr(task, "_fut_waiter", None) is waiter:
                break
        if task.done():
            return None
        state = self._state(chain, waiter, frames)
        name = task.get_name()
        if not chain.is_running:
            self._locks.note(id(task), f"task {name}", chain.frames)
        if state == "lock":
            self._locks.task_wants(id(task), chain.frames[::-1])
        names = []
        stack = frames or [(_name_of(task.get_coro()), "", 0, 0)]
        for awaiter in self._awaiters(task):
            names.append(awaiter.get_name())
            stack = stack + self._frames_of(awaiter)
        return Entry(
            "task",
            id(task),
            name,
            state,
            self._ages.of(task),
            self._places.stack([*stack, TASK_ROOT]),
            items_of(cell_of(task, self._variable)),
            tuple(names),
            count,
        )

    def _state(self, chain: Chain, waiter: Any, frames: list[Frame]) -> str:
        if chain.is_running:
            return "running"
        if waiter is None:
            return "runnable"
        told = state_of_stack(frames)
        if told:
            return told
        if isinstance(waiter, self._task_types()):
            return "task"
        if self._gathering_type and isinstance(waiter, self._gathering_type):
            return "gather"
        return "future"

    def _task_types(self) -> tuple[type, ...]:
        return (self._task_type, self._python_task_type)

    def _frames_of(self, task: Any) -> list[Frame]:
        known = self._own.get(id(task))
        if known is None:
            chain = await_chain(task.get_coro())
            known = self._own[id(task)] = (task, self._places.of_all(reversed(chain.frames)))
        return known[1]

    def _awaiters(self, task: Any) -> Iterator[Any]:
        """Yield the task that waits for this one, the one that waits for that, and so on."""
        seen = {id(task)}
        awaiter = self._awaiter_of(task)
        while awaiter is not None and id(awaiter) not in seen and len(seen) < _MAX_AWAITERS:
            seen.add(id(awaiter))
            yield awaiter
            awaiter = self._awaiter_of(awaiter)

    def _awaiter_of(self, future: Any, depth: int = 0) -> Any:
        """Return a task that waits for a future: whoever does has left a callback there."""
        for callback in _callbacks_of(future):
            owner = getattr(callback, "__self__", None)
            if isinstance(owner, self._task_types()):
                return owner
            if self._group_type and isinstance(owner, self._group_type):
                return getattr(owner, "_parent_task", None)
            if depth >= 4 or getattr(callback, "__module__", "") != "asyncio.tasks":
                continue
            # gather(), wait() and shield() wait through a future that their callback holds.
            if isinstance(callback, FunctionType):
                held = callback.__closure__ or ()
                candidates = [_content(cell) for cell in held]
            else:  # a partial, or a bound method of an own class
                candidates = [*getattr(callback, "args", ())]
            for candidate in candidates:
                if candidate is future or not isinstance(
                    candidate, (self._future_type, self._python_future_type)
                ):
                    continue
                found = self._awaiter_of(candidate, depth + 1)
                if found is not None:
                    return found
        return None


def _callbacks_of(future: Any) -> list[Any]:
    callbacks = getattr(future, "_callbacks", None) or ()
    return [entry[0] if isinstance(entry, tuple) else entry for entry in list(callbacks)]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty as yet
        return None


def _name_of(coroutine: object) -> str:
    name = getattr(coroutine, "__qualname__", None)
    return name if isinstance(name, str) else type(coroutine).__qualname__


def _has_ended(reference: Any) -> bool:
    try:
        task = reference() if isinstance(reference, ReferenceType) else reference
        return task is None or bool(task.done())
    except Exception:
        return False  # a task type of somebody else's; whoever reads it will see


def task_entries(
    variable: ContextVar[Any],
    running_loops: Callable[[], list[Any]],
    places: Places,
    ages: Ages,
    locks: LockMap,
    max_tasks: int,
) -> Iterator[Entry | None]:
    """Yield the entry of each task, ``None`` for one that has ended meanwhile.

    Of more than ``max_tasks`` a random part is read, and each of it stands for several, so that the
    counts add up to the population's. Without asyncio there are none.
    """
    tasks = sys.modules.get("asyncio.tasks")
    if tasks is None or not hasattr(tasks, "all_tasks"):
        return
    reader = _Reader(tasks, variable, places, ages, locks)
    population = all_tasks(tasks, running_loops)
    chosen = population
    if len(population) > max_tasks:
        # What has ended and was not collected yet is of the population no more.
        population = [reference for reference in population if not _has_ended(reference)]
        chosen = population
    if len(population) > max_tasks:
        chosen = random.sample(population, max_tasks)
    each, rest = divmod(len(population), len(chosen) or 1)
    for index, reference in enumerate(chosen):
        task = reference() if isinstance(reference, ReferenceType) else reference
        if task is None:
            yield None
            continue
        try:
            yield reader.entry(task, each + (index < rest))
        except Exception:
            # A task type of somebody else's, with methods that fail.
            yield None
