"""Every fork hook, and their order.

    before             prefork()          the engine's threads end, so that the child starts alone
    after, in parent   postfork_parent()  they start again; the window goes on
    after, in child    postfork_child()   new locks, new identity, empty queue, new session

CPython runs the hooks for ``os.fork``, ``os.forkpty`` and multiprocessing; ``subprocess`` and
``os.posix_spawn`` do not run them and need none, since they exec at once. uWSGI forks in C and
announces the child through ``uwsgidecorators``. multiprocessing children leave by ``os._exit``, so
their last window is sent by a multiprocessing finalizer.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any, Protocol

from conprof_core import _log

__all__ = ["ForkTarget", "install"]


class ForkTarget(Protocol):
    """What the hooks act on. The three steps never raise."""

    def prefork(self) -> None: ...
    def postfork_parent(self) -> None: ...
    def postfork_child(self) -> None: ...
    def at_exit(self) -> None: ...


class _Anchor:
    """Keeps multiprocessing's weak registration alive."""

    __slots__ = ("__weakref__",)


_anchor = _Anchor()
_installed = False
_multiprocessing_installed = False
_target: ForkTarget


def install(target: ForkTarget) -> None:
    """Register the hooks, once per process family; they cannot be unregistered."""
    global _installed, _target
    _target = target
    _install_multiprocessing()
    if _installed:
        return
    _installed = True
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_prefork,
            after_in_parent=_target.postfork_parent,
            after_in_child=_target.postfork_child,
        )
    _install_uwsgi()


def _prefork() -> None:
    _install_multiprocessing()
    _target.prefork()


def _install_multiprocessing() -> None:
    """Have the last window of a multiprocessing child sent; harmless before its import."""
    global _multiprocessing_installed
    util: Any = sys.modules.get("multiprocessing.util")
    if util is None or _multiprocessing_installed:
        return
    with _log.guard("fork"):
        util.register_after_fork(_anchor, _add_finalizer)
        _multiprocessing_installed = True


def _add_finalizer(anchor: _Anchor) -> None:
    """In a multiprocessing child: run after the child's other finalizers and its own children."""
    with _log.guard("fork"):
        from multiprocessing.util import Finalize

        Finalize(None, _at_exit, exitpriority=-1_000)


def _at_exit() -> None:
    _target.at_exit()


def _install_uwsgi() -> None:
    if "uwsgi" not in sys.modules:
        return
    with _log.guard("fork"):
        uwsgi: Any = import_module("uwsgi")
        if not uwsgi.opt.get("enable-threads"):
            _log.log(
                _log.ERROR,
                "fork",
                "uWSGI runs without enable-threads, so nothing can be sent; add --enable-threads",
            )
        import_module("uwsgidecorators").postfork(_target.postfork_child)
