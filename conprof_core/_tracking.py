"""Which cell each thread entered last, for the portable engine only.

Pure Python cannot read another thread's context, so while the portable engine runs, ``_labels``
notes here what it enters and leaves. With the native engine ``cells`` stays ``None`` and costs one
load per label change.
"""

from __future__ import annotations

import sys
from _thread import get_ident
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from weakref import WeakKeyDictionary

    from conprof_core._cells import LabelCell

__all__ = ["note", "start", "stop", "thread_cells", "thread_loops"]

thread_cells: dict[int, LabelCell | None] | None = None
"""Thread ident → the cell entered last in that thread, outside event loops; ``None`` when off."""

thread_loops: dict[int, AbstractEventLoop] = {}
"""Thread ident → the event loop in which that thread entered a label last."""

task_cells: WeakKeyDictionary[Task[object], LabelCell | None] | None = None
"""Task → its cell, only on 3.11 where ``Task.get_context`` does not exist."""


def start() -> None:
    """Begin to note cells; what was entered before is not known."""
    global thread_cells, task_cells
    if sys.version_info < (3, 12):
        from weakref import WeakKeyDictionary

        task_cells = WeakKeyDictionary()
    thread_loops.clear()
    thread_cells = {}


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
    ident = get_ident()
    asyncio = sys.modules.get("asyncio")
    loop = None if asyncio is None else asyncio._get_running_loop()
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


def forget_thread(ident: int) -> None:
    """Drop what is known of a thread that has ended."""
    if thread_cells is not None:
        thread_cells.pop(ident, None)
    thread_loops.pop(ident, None)
