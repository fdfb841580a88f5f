"""Hands the label cell on where a new thread, a pool or a greenlet would begin without it.

``asyncio.to_thread``, anyio and asgiref copy the whole context by themselves. ``Thread.start``,
``ThreadPoolExecutor.submit`` (and with it ``loop.run_in_executor``) and gevent's greenlets do not:
here they get the label cell and nothing else. ``_state`` installs this with a session and
removes it with the session; ``carry_labels=False`` leaves it out.

The user's callable is handed on as it is, so its identity, its signature and what a subclass of the
pool sees stay the same.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from conprof_core import _log
from conprof_core._labels import context_var, switch

if TYPE_CHECKING:
    from conprof_core._cells import LabelCell
    from conprof_core._native import charge
else:
    try:
        from conprof_core._native import charge
    except ImportError:

        def charge() -> None:
            """The portable engine has nothing to charge."""


__all__ = ["install", "uninstall"]

_CELL: Final = "_conprof_cell"
_UNKNOWN: Final = object()
_POOLS: Final = "concurrent.futures.thread"

# Threads that serve the whole process, although the first request that needs them starts them: they
# would wear that request's route for ever. What they run for others is labelled item by item.
_SERVICE_MODULES: Final = frozenset(
    {"concurrent", "multiprocessing", "logging", "asyncio", "anyio"}
)

_undo: list[Callable[[], None]] = []
_pools_awaited = False
"""Whether the executors are to be patched when the first of them starts a thread."""


def install() -> None:
    """Begin to hand labels on. Idempotent; never raises."""
    global _pools_awaited
    if _undo:
        return
    with _log.guard("carry"):
        _patch_threads()
        # Not imported only to be patched: that would be most of what a start costs.
        _pools_awaited = _POOLS not in sys.modules
        if not _pools_awaited:
            _patch_executors(sys.modules[_POOLS])
        if "gevent" in sys.modules:
            _patch_gevent()


def uninstall() -> None:
    """Put everything back. What others have patched on top of us stays, and works on."""
    global _pools_awaited
    _pools_awaited = False
    while _undo:
        with _log.guard("carry"):
            _undo.pop()()


def _replace(owner: Any, name: str, replacement: Any) -> None:
    # gevent puts a subclass in the place of Thread: the patch belongs where the method is defined.
    owner = next(one for one in owner.__mro__ if name in one.__dict__)
    original = owner.__dict__[name]
    setattr(owner, name, replacement)

    def undo() -> None:
        if owner.__dict__.get(name) is replacement:
            setattr(owner, name, original)

    _undo.append(undo)


# Threads ------------------------------------------------------------------------------------------


def _patch_threads() -> None:
    original = threading.Thread.start

    def start(self: threading.Thread) -> None:
        # The hand-over never keeps a thread from starting.
        if _undo:
            with _log.guard("carry"):
                is_first_of_pools = _pools_awaited and _begins_pools(self)
                cell = context_var.get()
                if cell is not None and (is_first_of_pools or not _is_service(self)):
                    _give(self, cell)
        original(self)

    _copy_face(start, original)
    _replace(threading.Thread, "start", start)


def _is_service(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)
    if getattr(target, "__module__", None) == _POOLS:
        return True  # said first: asgiref starts such a thread for each request
    names = (type(thread).__module__, getattr(target, "__module__", None) or "")
    return any(name.partition(".")[0] in _SERVICE_MODULES for name in names)


def _begins_pools(thread: threading.Thread) -> bool:
    """Patch the executors if ``thread`` is the first that one of them starts, labelled or not.

    The item it is started for was made before the patch, so it runs under the thread's own cell.
    """
    global _pools_awaited
    pools = sys.modules.get(_POOLS)
    worker = getattr(pools, "_worker", None)
    if worker is None or getattr(thread, "_target", None) is not worker:
        return False
    _pools_awaited = False
    _patch_executors(pools)
    return True


def _give(thread: threading.Thread, cell: LabelCell) -> None:
    """Have ``thread`` begin with ``cell`` in its own, otherwise unchanged context."""
    if hasattr(thread, "_context"):  # 3.14 and later
        # A context that the user gave, or that the thread inherits, is left as it is.
        if thread._context is None and not getattr(sys.flags, "thread_inherit_context", False):
            context = Context()
            context.run(context_var.set, cell)
            thread._context = context
        return
    original = thread._set_ident  # type: ignore[attr-defined]

    def set_ident() -> None:
        # The first method the new thread calls on itself: nothing of ours stays on its stack.
        thread.__dict__.pop("_set_ident", None)
        switch(cell)
        original()

    thread._set_ident = set_ident  # type: ignore[attr-defined]


# Executors ----------------------------------------------------------------------------------------


def _patch_executors(pools: Any) -> None:
    item: Any = pools._WorkItem
    original_init = item.__init__
    original_run = item.run

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original_init(self, *args, **kwargs)
        setattr(self, _CELL, context_var.get())

    def run(self: Any, *args: Any) -> Any:
        cell: Any = getattr(self, _CELL, _UNKNOWN)
        before = context_var.get()
        if cell is _UNKNOWN:  # made before the patch
            cell, before = before, None
        if before is cell:
            return original_run(self, *args)
        switch(cell)
        try:
            return original_run(self, *args)
        finally:
            # asgiref makes a worker for each request: what it has used since its last sample would
            # go to whatever comes next, and that would be half of a short request. So it goes to
            # these labels, and by their samples to where they work.
            charge()
            switch(before)

    _copy_face(init, original_init)
    _copy_face(run, original_run)
    _replace(item, "__init__", init)
    _replace(item, "run", run)


# gevent -------------------------------------------------------------------------------------------


def _patch_gevent() -> None:
    from gevent import Greenlet
    from gevent.threadpool import ThreadPool

    Greenlet.add_spawn_callback(_on_spawn)
    _undo.append(lambda: Greenlet.remove_spawn_callback(_on_spawn))
    original = ThreadPool.spawn

    def spawn(self: Any, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        cell = context_var.get()
        if cell is None:
            return original(self, func, *args, **kwargs)
        return original(self, _run_with, cell, func, args, kwargs)

    _copy_face(spawn, original)
    _replace(ThreadPool, "spawn", spawn)


def _on_spawn(greenlet: Any) -> None:
    # A context that someone has given the greenlet already is theirs to fill.
    with _log.guard("carry"):
        cell = context_var.get()
        if cell is not None and greenlet.gr_context is None:
            context = Context()
            context.run(context_var.set, cell)
            greenlet.gr_context = context


def _run_with(cell: LabelCell, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    before = context_var.get()
    switch(cell)
    try:
        return func(*args, **kwargs)
    finally:
        switch(before)


def _copy_face(ours: Any, original: Any) -> None:
    """Name, documentation and signature of the original, for whoever inspects it."""
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(ours, name, getattr(original, name))
    ours.__wrapped__ = original
