"""Who steers a running profiler: the program itself, a signal, or a file that is watched.

Changes that come from a signal handler or from a tick are made on a thread of their own: the first
may interrupt anything of ours, the second belongs to the engine that a change may have to stop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from conprof_core import _log
from conprof_core._config import Config
from conprof_core._control import CHANGEABLE
from conprof_core._standby import Errands

if TYPE_CHECKING:
    from conprof_core._control_file import ControlFile
    from conprof_core._control_signal import ControlSignal

__all__ = ["Change", "Controls", "Wish"]

Wish = Callable[[Config], Mapping[str, Any]]
"""What is wanted, from what holds at the time at which it is done."""

Change = Callable[[Wish, str], object]
"""Makes a change; with the name of who asked for it."""

_SETTLE_S = 0.5


class Controls:
    """The controls of one session, and where each value that can change came from."""

    def __init__(self, config: Config, sources: Mapping[str, str], change: Change) -> None:
        self._configured = config
        self._change = change
        self._errands = Errands()
        self._first_sources = {name: sources.get(name, "default") for name in CHANGEABLE}
        self._sources = dict(self._first_sources)
        self._signal: ControlSignal | None = None
        self._file: ControlFile | None = None
        self.changes = 0
        # Imported here: without the options nobody needs them.
        if config.control_signal:
            from conprof_core._control_signal import ControlSignal

            self._signal = ControlSignal(config.control_signal, self._on_signal)
        if config.control_file:
            from conprof_core._control_file import ControlFile

            self._file = ControlFile(config.control_file)

    def begin(self) -> Config:
        """Take over the signal, and return what holds at the start."""
        if self._signal is not None:
            self._signal.install()
        return self.initial()

    def initial(self) -> Config:
        """Return what the file, where there is one, makes of the configuration."""
        config = self._configured
        if self._file is not None:
            with _log.guard("control"):
                changes = self._file.look()
                if changes is not None:
                    config = self.combine(config, changes, self._file_source())
        return config

    def end(self) -> None:
        """Give the signal back."""
        if self._signal is not None:
            self._signal.uninstall()

    def _file_source(self) -> str:
        return "" if self._file is None else f"file {self._file.path}"

    def combine(self, now: Config, changes: Mapping[str, Any], source: str) -> Config:
        """Return ``now`` with the changes, and note where they come from.

        A file says everything that it has to say each time: what it said before and no longer says
        is again as it was configured.
        """
        values = dict(changes)
        if source == self._file_source():
            for name, before in self._sources.items():
                if before == source and name not in values:
                    values[name] = getattr(self._configured, name)
                    self._sources[name] = self._first_sources[name]
        for name in changes:
            self._sources[name] = source
        if "period" in values and "cpu_duration" not in values and now.cpu_duration == now.period:
            values["cpu_duration"] = values["period"]  # who measures all the time goes on to
        return now.replace(**values)

    def _on_signal(self) -> None:
        name = "signal" if self._signal is None else f"signal {self._signal.name}"
        self._errands.submit(
            lambda: self._change(lambda config: {"enabled": not config.enabled}, name)
        )

    def change_soon(self, wish: Wish, source: str) -> None:
        """Have a change made on a thread of its own; from a tick."""
        self._errands.submit(lambda: self._change(wish, source))

    def poll(self) -> float:
        """Look at the file when it is due; returns the seconds until it is due again."""
        file = self._file
        if file is None:
            return math.inf
        if not file.due_s():
            changes = file.look()
            if changes is not None:
                self._errands.submit(lambda: self._change(lambda _: changes, self._file_source()))
        return file.due_s()

    def prefork(self) -> None:
        """Let a change that is under way come to its end, for a moment."""
        self._errands.settle(_SETTLE_S)

    def postfork_child(self) -> None:
        """What the parent was about to do is the parent's."""
        self._errands = Errands()

    def stats(self, config: Config) -> dict[str, Any]:
        """Return what holds now, and where it came from."""
        state: dict[str, Any] = {name: _plain(getattr(config, name)) for name in CHANGEABLE}
        state["sources"] = dict(self._sources)
        state["changes"] = self.changes
        if self._file is not None:
            state["file"] = {"path": self._file.path, "trouble": self._file.trouble}
        if self._signal is not None:
            state["signal"] = {"name": self._signal.name, "trouble": self._signal.trouble}
        return state


def _plain(value: Any) -> Any:
    return [str(item) for item in value] if isinstance(value, tuple) else value
