"""One session: from a start to a stop in one process, with its identity, loop and engine."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from conprof_core import _log
from conprof_core._config import Config
from conprof_core._engine import Engine, EngineSettings, Row
from conprof_core._limits import EXIT_FLUSH_S, MAX_STACKS, WALL_RATE_HZ
from conprof_core._loop import Loop
from conprof_core._options import ProfileType
from conprof_core._process import Process
from conprof_core.exporters import Exporter

if TYPE_CHECKING:
    from conprof_core._tasks_socket import TasksSocket

__all__ = ["Session", "get_ahead_of_daemon_threads"]


class Owner(Protocol):
    """What a session wants to know of the profiler it belongs to."""

    observer: Callable[[list[Row]], object] | None

    @property
    def config(self) -> Config: ...
    @property
    def exporters(self) -> tuple[Exporter, ...] | None: ...
    def make_exporters(self) -> tuple[Exporter, ...]: ...


class Session:
    """From a start to a stop, in one process."""

    def __init__(
        self,
        owner: Owner,
        engine: Engine,
        reason: str,
        *,
        stop_on_exit: bool,
        profile_children: bool,
        launched: bool,
    ) -> None:
        self.owner = owner
        self.engine = engine
        self.reason = reason
        self.stop_on_exit = stop_on_exit
        self.profile_children = profile_children
        self.launched = launched
        self._tasks_socket: TasksSocket | None = None
        self.begin()

    def begin(self) -> None:
        """Begin in this process: a new identity, sequence and queue, and a running engine."""
        config = self.owner.config
        self.process = Process(config)
        self.loop = Loop(
            config, self.engine, self.owner.make_exporters(), self.process, self.owner.observer
        )
        self.started_ns = time.time_ns()
        settings = EngineSettings(
            rate_hz=config.cpu_profile_rate,
            period_s=config.cpu_duration,
            max_stacks=MAX_STACKS,
            on_terminate=self._on_terminate,
            heap_bytes=config.heap_sample_bytes if ProfileType.HEAP in config.profile_types else 0,
            wall_rate_hz=WALL_RATE_HZ if ProfileType.WALL in config.profile_types else 0,
            heap_old_windows=config.heap_old_windows,
            heap_tracemalloc=config.heap_tracemalloc,
            loop_blocked_ms=round(config.loop_blocked_threshold * 1000),
        )
        self.loop.begin()
        self.engine.start(settings, self.loop.tick)
        if ProfileType.TASKS in config.profile_types and hasattr(os, "getuid"):
            # Imported here: without the profile type nobody needs it.
            from conprof_core._tasks_socket import TasksSocket

            self._tasks_socket = TasksSocket(use_extension=self.engine.name == "native")
            self._tasks_socket.open()

    def _on_terminate(self) -> None:
        get_ahead_of_daemon_threads()
        self.loop.terminate(min(EXIT_FLUSH_S, self.owner.config.upload_timeout))

    # Fork steps; see _fork -----------------------------------------------------------------------

    def prefork(self) -> None:
        """End the threads."""
        if self._tasks_socket is not None:
            self._tasks_socket.prefork()
        self.engine.prefork()

    def postfork_parent(self) -> None:
        """Go on."""
        self.engine.postfork_parent()
        if self._tasks_socket is not None:
            self._tasks_socket.postfork_parent()

    def postfork_child(self) -> None:
        """Let go of what is the parent's; ``begin()`` follows where children are profiled."""
        self.engine.postfork_child()
        self.loop.forget()
        if self._tasks_socket is not None:
            self._tasks_socket.postfork_child()
            self._tasks_socket = None

    def end(self, timeout_s: float) -> None:
        """Stop the engine and send what is left within ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        with _log.guard("stop"):
            if self._tasks_socket is not None:
                self._tasks_socket.close()
            self.engine.stop()
            self.loop.flush(deadline - time.monotonic())
            self.loop.shutdown()


def get_ahead_of_daemon_threads() -> None:
    """Have busy threads hand over the GIL at once, in a process that is about to end anyway.

    Every file and socket operation of the last upload gives the GIL away; with the usual 5 ms, and
    a few threads that compute, the import of ``requests`` alone would take longer than is left.
    """
    sys.setswitchinterval(1e-5)
