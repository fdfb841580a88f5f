"""Few garbage collections on account of a snapshot.

A snapshot of thousands of tasks makes tens of thousands of objects that all live until it is
complete. To the collector they look like growth: it would run dozens of times, and end with a full
collection, which with a large heap stops the application for much longer than the snapshot itself
ever does. So the threshold of the youngest generation is raised meanwhile, to what is collected in
some 2 ms. Whether collection is enabled is the application's, and stays as it is.
"""

from __future__ import annotations

import gc
from typing import Final

from conprof_core._threads import new_rlock

__all__ = ["HELD_THRESHOLD", "HeldCollector", "forget"]

HELD_THRESHOLD: Final = 20_011
"""Objects; odd, so that it can be told from one that the application set."""

_lock = new_rlock()  # a signal handler written in Python may flush or stop in between
_users = 0
_before = 700


class HeldCollector:
    """A context in which the collector runs less often; any thread, any number.

    A threshold that the application sets meanwhile is kept.
    """

    __slots__ = ()

    def __enter__(self) -> None:
        global _users, _before
        with _lock:
            _users += 1
            young, *older = gc.get_threshold()
            if 0 < young < HELD_THRESHOLD:  # 0: off
                _before = young
                gc.set_threshold(HELD_THRESHOLD, *older)

    def __exit__(self, *exc_info: object) -> None:
        global _users
        with _lock:
            _users -= 1
            if _users == 0:
                _restore()


def _restore() -> None:
    young, *older = gc.get_threshold()
    if young == HELD_THRESHOLD:
        gc.set_threshold(_before, *older)


def forget() -> None:
    """In a forked child: whoever held the collector stayed in the parent."""
    global _lock, _users
    _lock = new_rlock()
    _users = 0
    _restore()
