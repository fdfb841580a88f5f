"""Greenlets for a snapshot, gevent's and others: those that do not run just now.

greenlet keeps no list, so they are looked for among the objects that the collector tracks. A
greenlet that runs is on its thread's stack.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from types import FrameType
from typing import Any, Final

from conprof_core._engine.task_entry import Ages, Entry, Frame, Places, cut, items_of
from conprof_core._engine.task_states import state_of_stack

__all__ = ["GREENLET_ROOT", "greenlet_entries"]

GREENLET_ROOT: Final[Frame] = ("[greenlet]", "", 0, 0)

_GENERATIONS: Final = 3


def _all_greenlets(greenlet_type: type) -> Iterator[Any]:
    types: set[type] = {greenlet_type}
    new: list[type] = [greenlet_type]
    while new:
        subclasses: list[type] = type.__subclasses__(new.pop())
        for subclass in subclasses:
            if subclass not in types:
                types.add(subclass)
                new.append(subclass)
    seen: set[int] = set()
    found: list[Any] = []
    # One generation at a time: each is one C call that keeps the GIL.
    for generation in range(_GENERATIONS):
        for one in gc.get_objects(generation):
            if type(one) in types and id(one) not in seen:
                seen.add(id(one))
                found.append(one)
    return iter(found)


def greenlet_entries(
    variable: ContextVar[Any], places: Places, ages: Ages, max_greenlets: int
) -> Iterator[Entry | None]:
    """Yield the entry of each suspended greenlet, ``None`` for what has ended or runs.

    Without the package greenlet there are none; beyond ``max_greenlets``, each that is read stands
    for several.
    """
    module = sys.modules.get("greenlet")
    greenlet_type = getattr(module, "greenlet", None)
    if not isinstance(greenlet_type, type):
        return
    population = list(_all_greenlets(greenlet_type))
    step = -(-len(population) // max_greenlets) or 1
    chosen = population[::step]
    each, rest = divmod(len(population), len(chosen) or 1)
    for index, one in enumerate(chosen):
        try:
            yield _entry(one, greenlet_type, variable, places, ages, each + (index < rest))
        except Exception:
            yield None  # of a thread that has ended, or a subclass whose attributes fail


def _entry(
    one: Any, base: Any, variable: ContextVar[Any], places: Places, ages: Ages, count: int
) -> Any:
    # Through the base: subclasses, as gevent's, mean other things by the same names.
    if base.dead.__get__(one):
        return None
    leaf: FrameType | None = base.gr_frame.__get__(one)
    if leaf is None:
        # Runs, or has not begun; only what has a function to begin with counts as created.
        run = getattr(one, "_run", None) or getattr(one, "run", None)
        if base.__bool__(one) or not callable(run):
            return None
        name = getattr(run, "__qualname__", None)
        stack = [(name if isinstance(name, str) else type(run).__qualname__, "", 0, 0)]
        return Entry(
            "greenlet",
            id(one),
            "",
            "created",
            ages.of(one),
            (*stack, GREENLET_ROOT),
            stands_for=count,
        )
    frames: list[Frame] = []
    frame: FrameType | None = leaf
    while frame is not None:
        frames.append(places.of(frame))
        frame = frame.f_back
    context = base.gr_context.__get__(one)
    cell = None if context is None else context.get(variable)
    hub = getattr(sys.modules.get("gevent.hub"), "Hub", ())
    state = "I/O" if hub and isinstance(one, hub) else state_of_stack(frames) or "waiting"
    labels = items_of(cell)
    stack = [*frames, GREENLET_ROOT]
    return Entry("greenlet", id(one), "", state, ages.of(one), cut(stack), labels, (), count)
