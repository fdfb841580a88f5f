"""Profiles of what the engine measures: CPU, wall time, memory."""

from __future__ import annotations

import os
from typing import Protocol

from conprof_core._cuts import Reading
from conprof_core._engine import EngineWindow
from conprof_core._session import Session
from conprof_core._window import compressed, describe, mapping_file
from conprof_core.exporters import naming
from conprof_core.pull import answer
from conprof_core.pull.answer import Answer

__all__ = ["Readable", "WindowProfile"]


class Readable(Protocol):
    """One profile, for one request. All but ``abandon()`` may take some milliseconds."""

    def now(self, debug: int) -> Answer:
        """Return what there is now."""
        ...

    def begin(self) -> None:
        """Let a span begin."""
        ...

    def end(self) -> Answer:
        """End the span and return its profile."""
        ...

    def abandon(self) -> None:
        """Let go of what ``begin()`` took. In any thread, at any time; never waits."""
        ...


class WindowProfile:
    """See ``Readable``. What cannot be read now raises ``Unreadable``.

    Args:
        session: the one that is read.
        name: of the profile; see ``catalog``.
        is_state: whether it tells what is, so that over a time there is a difference to tell.
    """

    def __init__(self, session: Session, name: str, *, is_state: bool) -> None:
        self._session = session
        self._cuts = session.loop.cuts
        self._name = name
        self._is_state = is_state
        self._reading = Reading()
        self._measured = session.config.measured

    def now(self, debug: int) -> Answer:
        """Return live memory, and all allocations of the session."""
        window = self._cuts.heap()
        if debug:
            from conprof_core.pull.heap_text import debug1

            return answer.text(debug1(window.rows(), self._session.config.measured.heap_bytes))
        return self._encode(window, self._name)

    def begin(self) -> None:
        """Let a span begin."""
        self._cuts.begin(self._reading, alive=self._is_state)
        # Of this reading: a change of it would have ended the reading.
        self._measured = self._session.config.measured

    def end(self) -> Answer:
        """End the span and return its profile."""
        window = self._cuts.end(self._reading, alive=self._is_state)
        return self._encode(window, f"{self._name}-delta" if self._is_state else self._name)

    def abandon(self) -> None:
        """Let go of what ``begin()`` took."""
        self._cuts.abandon(self._reading)

    def _encode(self, window: EngineWindow, file: str) -> Answer:
        measured = self._measured
        counters = {reason: count for reason, count in window.counters.items() if count}
        pprof = window.encode_pprof(
            naming.pull_shape(self._name, measured),
            naming.pull(measured),
            mapping_file=mapping_file(),
            # Behind one port there may be several processes: the profile tells whose it is.
            comments=(f"process {os.getpid()}", *describe(self._session.engine.name, counters)),
        )
        assert pprof is not None, "the first part of a profile is never missing"
        return answer.profile(file, compressed(pprof))
