"""The control signal: each one turns profiling off, or on again. Installed only where asked for."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from conprof_core import _log

__all__ = ["ControlSignal"]


class ControlSignal:
    """A handler in front of the one that was there, which is called after it.

    Python runs handlers in the main thread, between two instructions: ``toggle`` must only hand
    the work to another thread. A system call that the signal interrupts is restarted, so that no
    library sees ``EINTR`` because of us; while the main thread sits in one that waits for ever, the
    handler waits too.
    """

    def __init__(self, name: str, toggle: Callable[[], None]) -> None:
        self.name = name
        self.trouble = ""
        self._number = getattr(signal, name)
        self._toggle = toggle
        self._previous: Any = None
        self._is_active = False

    def install(self) -> None:
        """Take the signal over; says in the log why that cannot be. Never raises."""
        with _log.guard("control"):
            self._previous = signal.getsignal(self._number)
            if self._previous is None:
                # Neither to be called nor to be put back from Python, as under uWSGI.
                self.trouble = "another library handles it already, outside of Python"
            else:
                try:
                    signal.signal(self._number, self._on_signal)
                    self._is_active = True
                    signal.siginterrupt(self._number, False)
                except ValueError:
                    self.trouble = "start() was not called in the main thread, as Python demands"
            if self.trouble:
                _log.log(_log.ERROR, "control", "%s changes nothing: %s", self.name, self.trouble)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._is_active:
            with _log.guard("control"):
                self._toggle()
        if callable(self._previous):
            self._previous(number, frame)

    def uninstall(self) -> None:
        """Put the previous handler back; where that cannot be, only pass the signal on to it."""
        self._is_active = False
        with _log.guard("control"):
            if signal.getsignal(self._number) != self._on_signal:
                return  # somebody stands in front of us and may call us
            try:
                signal.signal(self._number, self._previous)
            except ValueError:
                pass  # not the main thread
