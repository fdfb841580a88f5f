"""Which cell each thread entered last, for the portable engine only.

Pure Python cannot read another thread's context, so while the portable engine runs, ``_labels``
notes here what it enters and leaves. With the native engine ``cells`` stays ``None`` and costs one
load per label change.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container
from typing import TYPE_CHECKING

from conprof_core._threads import thread_ident

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from contextvars import ContextVar
    from weakref import WeakKeyDictionary

    from conprof_core._cells import LabelCell

__all__ = ["current", "forget_other_threads", "keep_only", "note", "set_mend", "start", "stop"]

thread_cells: dict[int, LabelCell | None] | None = None
"""Thread ident → the cell entered last in that thread, outside event loops; ``None`` when off."""

thread_loops: dict[int, AbstractEventLoop] = {}
"""Thread ident → the event loop in which that thread entered a label last."""

task_cells: WeakKeyDictionary[Task[object], LabelCell | None] | None = None
"""Task → its cell, only on 3.11 where ``Task.get_context`` does not exist."""

_mend: Callable[[], object] | None = None
"""Called where labels change, while the engine has no threads and waits for some."""


_variable: ContextVar[LabelCell | None]


def set_mend(mend: Callable[[], object] | None) -> None:
    """Have something called where labels change, or nothing any more."""
    global _mend
    _mend = mend


def start(variable: ContextVar[LabelCell | None]) -> None:
    """Begin to note cells; what was entered before is known for the calling thread only."""
    global thread_cells, task_cells, _variable
    _variable = variable
    if sys.version_info < (3, 12):
        from weakref import WeakKeyDictionary

        task_cells = WeakKeyDictionary()
    thread_loops.clear()
    thread_cells = {}
    note(variable.get())


def stop() -> None:
    """Stop noting and forget everything."""
    global thread_cells, task_cells
    thread_cells = None
    task_cells = None
    thread_loops.clear()


def note(cell: LabelCell | None) -> None:
    """Note that the calling thread, or its current asyncio task, now stands in ``cell``."""
    cells = thread_cells
    if cells is None:
        return
    if _mend is not None:
        _mend()
    ident = thread_ident()
    if _is_patched_by_gevent() or _has_gevent_hub():
        cells[ident] = None
        return
    asyncio = sys.modules.get("asyncio")
    # The attribute is missing while another thread is still importing asyncio.
    get_loop = getattr(asyncio, "_get_running_loop", None)
    loop = None if get_loop is None else get_loop()
    if loop is None:
        cells[ident] = cell
        return
    thread_loops[ident] = loop
    tasks = task_cells
    if tasks is not None:
        assert asyncio is not None
        task = asyncio.current_task(loop)
        if task is not None:
            tasks[task] = cell


def current(ident: int) -> LabelCell | None:
    """Return the cell of a thread, as well as it can be known from outside."""
    cells = thread_cells
    if cells is None or _is_patched_by_gevent():
        return None
    loop = thread_loops.get(ident)
    if loop is None:
        return cells.get(ident)
    if not loop.is_running():
        thread_loops.pop(ident, None)
        return cells.get(ident)
    return _cell_of_task(loop)


def _cell_of_task(loop: AbstractEventLoop) -> LabelCell | None:
    task = sys.modules["asyncio"].current_task(loop)
    if task is None:
        return None
    if task_cells is not None:
        return task_cells.get(task)
    get_context = getattr(task, "get_context", None)
    # Another thread's context may be read while this thread holds the GIL, and only then.
    if get_context is None or not _gil_enabled():
        return None
    cell: LabelCell | None = get_context().get(_variable)
    return cell


# Greenlets of one thread take turns unseen: no label is better than a wrong one.


def _is_patched_by_gevent() -> bool:
    is_patched = getattr(sys.modules.get("gevent.monkey"), "is_module_patched", None)
    return is_patched is not None and bool(is_patched("threading"))


def _has_gevent_hub() -> bool:
    """Whether the calling thread runs an event loop of gevent."""
    get_hub = getattr(sys.modules.get("gevent._hub_local"), "get_hub_if_exists", None)
    return get_hub is not None and get_hub() is not None


def _gil_enabled() -> bool:
    is_enabled = getattr(sys, "_is_gil_enabled", None)
    return is_enabled is None or bool(is_enabled())


def forget_other_threads() -> None:
    """In a forked child: only the thread that forked is here."""
    if thread_cells is not None:
        ident = thread_ident()
        kept = thread_cells.get(ident)
        thread_cells.clear()
        thread_cells[ident] = kept


def keep_only(idents: Container[int]) -> None:
    """Forget threads that have ended."""
    cells = thread_cells  # a stop() in another thread takes the name away in the middle
    if cells is None:
        return
    for known in {*cells, *thread_loops}:
        if known not in idents:
            thread_loops.pop(known, None)
            cells.pop(known, None)
