"""Short turns with the GIL while a window is encoded and sent.

CPython asks a running thread for the GIL only after another has waited a whole switch interval
(5 ms) in which it was never offered. A thread that releases it every millisecond, for a short write
for instance, offers it each time and has it back before the other is awake: CPU-bound work with
some I/O keeps a second thread out for seconds, and uploads would time out. And the other way round,
a thread of the application waits 5 ms whenever ours holds the GIL. So the interval is short while
our code runs, some tens of milliseconds of a window.

See ``take_gil()`` in CPython's ``Python/ceval_gil.c``.
"""

from __future__ import annotations

import sys
from typing import Final

from conprof_core._threads import new_rlock

__all__ = ["TURN_US", "ShortTurns", "forget"]

TURN_US: Final = 499
"""The interval, in microseconds; odd, so that it can be told from one that the application set."""

_HALF_S: Final = 0.5e-6  # CPython cuts what it is given down to whole microseconds

_lock = new_rlock()  # a signal handler written in Python may flush or stop in between
_users = 0
_before_s = 0.005


class ShortTurns:
    """A context in which the switch interval of the process is short; any thread, any number.

    An interval that the application sets meanwhile is kept. One that it saved during a turn and
    restored after it would be ours: the next turn puts that right.
    """

    __slots__ = ()

    def __enter__(self) -> None:
        global _users, _before_s
        with _lock:
            if not _is_ours():
                _before_s = sys.getswitchinterval()
            _users += 1
            if _before_s * 1e6 > TURN_US:
                sys.setswitchinterval(TURN_US / 1e6 + _HALF_S)

    def __exit__(self, *exc_info: object) -> None:
        global _users
        with _lock:
            _users -= 1
            if _users == 0 and _is_ours():
                sys.setswitchinterval(_before_s + _HALF_S)


def _is_ours() -> bool:
    return round(sys.getswitchinterval() * 1e6) == TURN_US


def forget() -> None:
    """In a forked child: whoever had a turn stayed in the parent."""
    global _lock, _users
    _lock = new_rlock()
    _users = 0
    if _is_ours():
        sys.setswitchinterval(_before_s + _HALF_S)
