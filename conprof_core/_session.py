"""One session: from a start to a stop in one process, with its identity, loop and engine."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from conprof_core import _log
from conprof_core._config import Config
from conprof_core._controls import Change, Controls, Wish
from conprof_core._engine import Engine, EngineSettings, EngineUnavailable, Row, choose
from conprof_core._limits import (
    CONTROL_POLL_S,
    EXIT_FLUSH_S,
    HEAP_RATE_HZ,
    MAX_STACKS,
    WALL_RATE_HZ,
)
from conprof_core._loop import Loop
from conprof_core._options import ProfileType
from conprof_core._process import Process
from conprof_core._standby import Standby
from conprof_core.exporters import Exporter

if TYPE_CHECKING:
    from conprof_core._tasks_socket import TasksSocket

__all__ = ["Owner", "Session", "get_ahead_of_daemon_threads"]


class Owner(Protocol):
    """What a session wants to know of the profiler it belongs to."""

    observer: Callable[[list[Row]], object] | None

    @property
    def config(self) -> Config: ...
    @property
    def sources(self) -> Mapping[str, str]: ...
    @property
    def problems(self) -> tuple[str, ...]: ...
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
        change: Change,
    ) -> None:
        self.owner = owner
        self.engine = engine
        self.reason = reason
        self.stop_on_exit = stop_on_exit
        self.profile_children = profile_children
        self.launched = launched
        self._tasks_socket: TasksSocket | None = None
        self._is_leaving = False  # the engine is about to be changed
        self.controls = Controls(owner.config, owner.sources, change)
        try:
            self.config = self.controls.begin()  # what holds now
            self.begin()
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Undo what has begun, whichever part of it that is; nothing is sent. Never raises."""
        standby: Standby | None = getattr(self, "_standby", None)
        loop: Loop | None = getattr(self, "loop", None)
        _log.each(
            "start",
            self.controls.end,
            standby.stop if standby is not None else None,
            self._tasks_socket.close if self._tasks_socket is not None else None,
            self.engine.stop,
            loop.shutdown if loop is not None else None,
        )

    def begin(self) -> None:
        """Begin in this process: a new identity, sequence and queue, and a running engine.

        When it raises, ``abandon()`` undoes what was done.
        """
        config = self.config
        self.process = Process(config)
        self.loop = Loop(
            config,
            self.engine,
            self.owner.make_exporters(),
            self.process,
            self.owner.observer,
            self._poll,
            self._wake,
        )
        for queue in self.loop.queues:
            measure = getattr(queue.exporter, "measure", None)
            if measure is not None and config.measured != self.owner.config.measured:
                measure(config.measured)
        self._standby = Standby(self.loop.tick)
        self.started_ns = time.time_ns()
        if config.enabled:
            self.loop.begin()
            self._start_engine(config)
        else:
            self._standby.start()
        self._follow(config)

    def _poll(self) -> float:
        """Look, at each tick, for reasons to change something; seconds to the next look."""
        trouble = self.engine.trouble() if self.config.enabled else ""
        if trouble and self.config.engine is None and not self._is_leaving:
            self._is_leaving = True
            self.controls.change_soon(lambda _: {"engine": "portable"}, trouble)
        return self.controls.poll()

    def _wake(self) -> None:
        """Have ``tick()`` called by whoever does so now."""
        if self.config.enabled:
            self.engine.wake()
        else:
            self._standby.wake()

    def _start_engine(self, config: Config) -> None:
        first_tick_s = config.cpu_duration
        has_heap = ProfileType.HEAP in config.profile_types
        settings = EngineSettings(
            rate_hz=config.cpu_profile_rate,
            period_s=min(first_tick_s, CONTROL_POLL_S) if config.control_file else first_tick_s,
            max_stacks=MAX_STACKS,
            on_terminate=self._on_terminate,
            heap_bytes=config.measured.heap_bytes if has_heap else 0,
            heap_rate_hz=0 if config.heap_sample_bytes else HEAP_RATE_HZ,
            wall_rate_hz=WALL_RATE_HZ if ProfileType.WALL in config.profile_types else 0,
            heap_old_windows=config.heap_old_windows,
            heap_tracemalloc=config.heap_tracemalloc,
            loop_blocked_ms=round(config.loop_blocked_threshold * 1000),
        )
        self.engine.start(settings, self.loop.tick)

    def _follow(self, config: Config) -> None:
        """Open or close what answers ``conprof tasks``."""
        is_wanted = config.enabled and ProfileType.TASKS in config.profile_types
        if not is_wanted and self._tasks_socket is not None:
            self._tasks_socket.close()
            self._tasks_socket = None
        elif is_wanted and self._tasks_socket is None and hasattr(os, "getuid"):
            # Imported here: without the profile type nobody needs it.
            from conprof_core._tasks_socket import TasksSocket

            self._tasks_socket = TasksSocket(use_extension=self.engine.name == "native")
            self._tasks_socket.open()

    def change(self, wish: Wish, source: str) -> bool:
        """Do what is wished from now on, in the same queues and as the same process.

        The window ends here, so that each window has one period and one set of types. ``False``
        when the loop is too busy. Called with the lock of the state held.
        """
        old = self.config
        new = self.controls.combine(old, wish(old), source)
        if new == old:
            return True
        begins_anew = new.engine != old.engine or any(
            (kind in old.profile_types) != (kind in new.profile_types)
            for kind in (ProfileType.HEAP, ProfileType.WALL)
        )
        stops = old.enabled and (begins_anew or not new.enabled)
        starts = new.enabled and (begins_anew or not old.enabled)

        def halt() -> None:
            if stops:
                self.engine.stop()

        def go() -> bool:
            self.config = new
            try:
                if new.engine != old.engine:
                    self._use_engine(new, source)
                if starts:
                    self._start_engine(new)
                elif new.enabled and new.cpu_profile_rate != old.cpu_profile_rate:
                    self.engine.set_rate(new.cpu_profile_rate)
            except (RuntimeError, EngineUnavailable) as error:
                # No thread can be had, or every signal is taken.
                self.config = new.replace(enabled=False)
                _log.log(_log.ERROR, "control", "profiling cannot go on: %s", error)
            return self.config.enabled

        if not self.loop.switch(new, halt, go):
            return False
        self.controls.changes += 1
        if self.config.enabled:
            self._standby.stop()
            self.engine.wake()  # the next tick is at another time now
        else:
            self._standby.start()
        self._follow(self.config)
        _log.log(_log.INFO, "control", "%s: %s", source, _differences(old, self.config))
        return True

    def _use_engine(self, config: Config, reason: str) -> None:
        """Go on with another engine: the one before cannot any more, and its window is taken."""
        self.engine, _ = choose(config.engine)
        self.reason = reason
        self.loop.use(self.engine)
        if self._tasks_socket is not None:  # its means are refused as well
            self._tasks_socket.close()
            self._tasks_socket = None
        _log.log(_log.ERROR, "profiler", "using the portable engine from now on: %s", reason)

    def _on_terminate(self) -> None:
        if os.getpid() != 1:  # which the signal does not end
            get_ahead_of_daemon_threads()
        self.loop.terminate(min(EXIT_FLUSH_S, self.owner.config.upload_timeout))

    # Fork steps; see _fork -----------------------------------------------------------------------

    def prefork(self) -> None:
        """End the threads."""
        self._standby.prefork()
        if self._tasks_socket is not None:
            self._tasks_socket.prefork()
        self.engine.prefork()

    def postfork_parent(self) -> None:
        """Go on."""
        self._standby.postfork_parent()
        self.engine.postfork_parent()
        if self._tasks_socket is not None:
            self._tasks_socket.postfork_parent()

    def postfork_child(self) -> None:
        """Let go of what is the parent's; ``begin()`` follows where children are profiled."""
        self.controls.postfork_child()
        self.engine.postfork_child()
        self.loop.forget()
        if self._tasks_socket is not None:
            self._tasks_socket.postfork_child()
            self._tasks_socket = None

    def end(self, timeout_s: float) -> None:
        """Stop the engine and send what is left within ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        _log.each(
            "stop",
            self.controls.end,
            self._standby.stop,
            self._tasks_socket.close if self._tasks_socket is not None else None,
            self.engine.stop,
            lambda: self.loop.flush(deadline - time.monotonic()),
            self.loop.shutdown,
        )


def _differences(old: Config, new: Config) -> str:
    return ", ".join(f"{name}={getattr(new, name)}" for name in old.differing(new))


def get_ahead_of_daemon_threads() -> None:
    """Have busy threads hand over the GIL at once, in a process that is about to end anyway.

    Every file and socket operation of the last upload gives the GIL away; with the usual 5 ms, and
    a few threads that compute, the import of ``requests`` alone would take longer than is left.
    """
    sys.setswitchinterval(1e-5)
