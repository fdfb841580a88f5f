"""The profiler: the only module that knows the whole chain, and the one session of this process."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from conprof_core import _carry, _fork, _held_gc, _log, _scope, _servers, _turns
from conprof_core._config import Config, load
from conprof_core._engine import EngineUnavailable, Row, choose
from conprof_core._limits import EXIT_FLUSH_S
from conprof_core._session import Session, get_ahead_of_daemon_threads
from conprof_core._threads import Lock, new_rlock
from conprof_core.errors import AlreadyRunningError, EngineUnavailableError
from conprof_core.exporters import Exporter, create

__all__ = ["Profiler", "flush", "is_running", "session", "start", "stats", "stop"]

_PREFORK_WAIT_S = 0.5


class Profiler:
    """A configured profiler. One at a time runs in a process.

    The keywords, and the order of the first seven, are those of Blackfire's Python probe. Every
    option can also come from the environment; an explicit value wins, ``None`` means "not given".
    ``docs/configuration.md`` describes each.

    Args:
        exporters: destinations as objects, in place of those that ``export_to`` names.

    Raises:
        ConfigError: an explicit option cannot be used.
    """

    def __init__(
        self,
        application_name: str | None = None,
        agent_socket: str | None = None,
        server_id: str | None = None,
        server_token: str | None = None,
        period: float | None = None,
        upload_timeout: float | None = None,
        labels: Mapping[str, str] | None = None,
        *,
        exporters: Sequence[Exporter] | None = None,
        **options: object,
    ) -> None:
        options.update(
            application_name=application_name,
            agent_socket=agent_socket,
            server_id=server_id,
            server_token=server_token,
            period=period,
            upload_timeout=upload_timeout,
            labels=labels,
        )
        loaded = load(options)
        self._config = loaded.config
        self._problems = loaded.problems
        self._exporters = None if exporters is None else tuple(exporters)
        self.observer: Callable[[list[Row]], object] | None = None

    def observe(self, observer: Callable[[list[Row]], object]) -> None:
        """Have the rows of each window passed to ``observer``, for ``conprof_core.testing``."""
        self.observer = observer

    @property
    def config(self) -> Config:
        """The effective configuration."""
        return self._config

    @property
    def is_running(self) -> bool:
        """Whether this very profiler runs."""
        return _state.session is not None and _state.session.owner is self

    def start(self, stop_on_exit: bool = True, profile_children: bool = True) -> None:
        """Start profiling this process, and its forked children.

        A no-op when a profiler with an equal configuration runs already, or when
        ``CONPROF_DISABLED`` is set. Safe to call from any thread. After it has returned, nothing
        the profiler does raises into the application.

        Args:
            stop_on_exit: send the last window when the interpreter exits.
            profile_children: go on in forked children, each as a process of its own.

        Raises:
            AlreadyRunningError: a differently configured profiler runs.
            EngineUnavailableError: ``engine`` or ``CONPROF_ENGINE`` demands what cannot run here.
        """
        _state.start(self, stop_on_exit=stop_on_exit, profile_children=profile_children)

    def stop(self) -> None:
        """Stop, and send the last window within ``upload_timeout``. Harmless when not running."""
        if self.is_running:
            _state.stop(self._config.upload_timeout)

    def flush(self, timeout: float | None = None) -> bool:
        """Close the window now and send it; ``True`` when everything was delivered in time."""
        return self.is_running and _state.flush(timeout)

    def stats(self) -> dict[str, Any]:
        """Return counters of the running session; see ``conprof_core.stats``."""
        return _state.stats()

    @property
    def exporters(self) -> tuple[Exporter, ...] | None:
        """The destinations given as objects; ``None`` when ``export_to`` names them."""
        return self._exporters

    def make_exporters(self) -> tuple[Exporter, ...]:
        if self._exporters is not None:
            return self._exporters
        return tuple(create(destination) for destination in self._config.destinations())


class _State:
    """The one session of this process, and what starts, forks and ends it."""

    def __init__(self) -> None:
        self._lock: Lock = new_rlock()
        self._lock_held_for_fork = False
        self._at_exit_registered = False
        self._logged: set[str] = set()
        self.session: Session | None = None

    def start(
        self,
        owner: Profiler,
        *,
        stop_on_exit: bool = True,
        profile_children: bool = True,
        launched: bool = False,
    ) -> None:
        with self._lock:
            session = self.session
            if session is not None and session.process.pid != os.getpid():
                # A fork that ran no hooks, as in an embedding server.
                self.postfork_child()
                session = self.session
            if session is not None:
                running = session.owner
                is_same = (running.config, running.exporters) == (owner.config, owner.exporters)
                if running is owner or is_same:
                    return
                if not session.launched:
                    raise AlreadyRunningError(session.owner.config.differing(owner.config))
                # `conprof run` was there first with what the environment says; the program's own
                # options are explicit and win.
                self.stop(min(EXIT_FLUSH_S, session.owner.config.upload_timeout))
            config = owner.config
            self._report(owner, config)
            if config.disabled:
                _log.log(_log.INFO, "profiler", "CONPROF_DISABLED is set: not profiling")
                return
            if getattr(threading, "_SHUTTING_DOWN", False):
                return  # in an atexit handler: no thread can be had any more, and little is left
            self._begin(
                owner,
                stop_on_exit=stop_on_exit,
                profile_children=profile_children,
                launched=launched,
            )

    def _report(self, owner: Profiler, config: Config) -> None:
        """Say once per process what was wrong in the environment."""
        problem = _log.configure(config.log_level, config.log_file)
        problems = list(owner._problems)
        if problem:
            problems.append(f"the log goes to stderr: {problem}")
        for text in problems:
            if text not in self._logged:
                self._logged.add(text)
                _log.log(_log.ERROR, "config", "%s", text)

    def _begin(
        self, owner: Profiler, *, stop_on_exit: bool, profile_children: bool, launched: bool
    ) -> None:
        prefer = owner.config.engine
        engine, reason = choose(prefer)
        options = {
            "stop_on_exit": stop_on_exit,
            "profile_children": profile_children,
            "launched": launched,
        }
        try:
            try:
                session = Session(owner, engine, reason, **options)
            except EngineUnavailable as unavailable:
                if prefer is not None:
                    raise EngineUnavailableError(prefer, unavailable.reason) from None
                engine, _ = choose("portable")
                reason = unavailable.reason
                session = Session(owner, engine, reason, **options)
        except RuntimeError as error:
            if isinstance(error, EngineUnavailableError):
                raise
            # No thread can be had: out of resources, or the interpreter is shutting down.
            _log.log(_log.ERROR, "profiler", "not profiling this process: %s", error)
            return
        self.session = session
        _scope.set_sampling(True)
        if owner.config.carry_labels:
            _carry.install()
        if owner.config.trace_ids != "off":
            # Imported here: few want it, and those pay for it.
            from conprof_core import _traces

            to_pyroscope = any(url.startswith("pyroscope+") for url in owner.config.export_to)
            _traces.install(owner.config.trace_ids, mark_spans=to_pyroscope)
        _servers.install(self.flush)
        _fork.install(self)
        if not self._at_exit_registered:
            self._at_exit_registered = True
            atexit.register(self.at_exit)
        if reason and prefer is None and f"engine {reason}" not in self._logged:
            self._logged.add(f"engine {reason}")
            _log.log(_log.WARNING, "profiler", "using the portable engine: %s", reason)
        _log.log(
            _log.INFO,
            "profiler",
            "profiling as %s, %s engine, %d Hz",
            session.process.service,
            engine.name,
            owner.config.cpu_profile_rate,
        )

    def stop(self, timeout_s: float | None = None) -> None:
        with self._lock:
            session = self.session
            if session is None:
                return
            self.session = None
            _scope.set_sampling(False)
            _carry.uninstall()
            if session.owner.config.trace_ids != "off":
                from conprof_core import _traces

                _traces.uninstall()
            _servers.uninstall()
            if session.process.pid != os.getpid():
                return  # a fork that ran no hooks: the session is the parent's
            session.end(session.owner.config.upload_timeout if timeout_s is None else timeout_s)
            _log.log(_log.INFO, "profiler", "stopped")

    def flush(self, timeout_s: float | None) -> bool:
        session = self.session
        if session is None:
            return True
        limit = session.owner.config.upload_timeout if timeout_s is None else timeout_s
        return session.loop.flush(limit)

    def stats(self) -> dict[str, Any]:
        session = self.session
        common: dict[str, Any] = {
            "running": session is not None,
            "internal_errors": dict(_log.internal_errors),
            "last_internal_error": _log.last_internal_error,
        }
        if session is None:
            return common
        return {
            **common,
            "engine": session.engine.name,
            "engine_reason": session.reason,
            "rate_hz": session.owner.config.cpu_profile_rate,
            "started_ns": session.started_ns,
            "process_id": session.process.pid,
            "runtime_id": session.process.runtime_id,
            **session.loop.stats(),
            "engine_stats": session.engine.stats(),
        }

    def at_exit(self) -> None:
        """Send the last window while the interpreter exits, within two seconds."""
        with _log.guard("exit"):
            session = self.session
            if session is None:
                return
            if session.stop_on_exit:
                get_ahead_of_daemon_threads()
                self.stop(min(EXIT_FLUSH_S, session.owner.config.upload_timeout))
            else:
                session.engine.stop()

    # Fork steps; see _fork -----------------------------------------------------------------------

    def prefork(self) -> None:
        with _log.guard("fork"):
            # Not for ever: a thread that hangs in start() or stop() must not hang the fork.
            self._lock_held_for_fork = self._lock.acquire(True, _PREFORK_WAIT_S)
            session = self.session
            if session is not None and session.process.pid == os.getpid():
                session.prefork()

    def postfork_parent(self) -> None:
        with _log.guard("fork"):
            session = self.session
            if session is not None and session.process.pid == os.getpid():
                session.postfork_parent()
        self._release_after_fork()

    def _release_after_fork(self) -> None:
        if self._lock_held_for_fork:
            self._lock_held_for_fork = False
            self._lock.release()

    def postfork_child(self) -> None:
        session = self.session
        if session is not None and session.process.pid == os.getpid():
            return  # announced twice, as by uWSGI with its Python fork hooks on
        self._lock = new_rlock()
        self._lock_held_for_fork = False
        self.session = None
        _log.forget_internal_errors()
        _turns.forget()
        _held_gc.forget()
        if session is None:
            return
        _scope.set_sampling(False)
        _scope.forget()
        with _log.guard("fork"):
            session.postfork_child()
            if not session.profile_children:
                return
            session.begin()
            self.session = session
            _scope.set_sampling(True)


_state = _State()


def start(**options: Any) -> None:
    """Start profiling this process with one line, typically at import of the application.

    Options are those of ``Profiler``; each can also come from the environment, and an explicit
    value wins. Calling it again with an equal configuration does nothing.

    Raises:
        ConfigError: an explicit option cannot be used.
        AlreadyRunningError: a differently configured profiler runs in this process.
        EngineUnavailableError: ``CONPROF_ENGINE`` demands an engine that cannot run here.
    """
    Profiler(**options).start()


def start_launched() -> None:
    """Start for ``conprof run``: an explicit ``start()`` of the program may replace it later."""
    _state.start(Profiler(), launched=True)


def stop() -> None:
    """Stop profiling and send the last window, within ``upload_timeout``.

    Harmless when nothing runs. Safe to call from any thread; never raises.
    """
    _state.stop()


def flush(timeout: float | None = None) -> bool:
    """Close the window now and send what waits; ``True`` when all of it was delivered.

    Blocks for at most ``timeout`` seconds, by default ``upload_timeout``. Never raises.
    """
    return _state.flush(timeout)


def is_running() -> bool:
    """Return whether a profiler runs in this process."""
    return _state.session is not None


def session() -> Session | None:
    """Return the session of this process, for the pull handler."""
    found = _state.session
    return found if found is not None and found.process.pid == os.getpid() else None


def stats() -> dict[str, Any]:
    """Return what the profiler knows about itself, as plain data.

    Among others: ``running``, ``engine``, ``samples``, ``lost`` (by reason), ``exported``,
    ``queued``, ``dropped``, ``last_error`` and ``internal_errors``.
    """
    return _state.stats()
