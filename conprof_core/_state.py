"""The one session of this process: the only module that knows the whole chain."""

from __future__ import annotations

import atexit
import os
import threading
from typing import Any

from conprof_core import _carry, _fork, _held_gc, _log, _scope, _servers, _turns
from conprof_core._config import Config
from conprof_core._controls import Wish
from conprof_core._engine import EngineUnavailable, choose
from conprof_core._limits import EXIT_FLUSH_S
from conprof_core._session import Owner, Session, get_ahead_of_daemon_threads
from conprof_core._threads import Lock, new_rlock
from conprof_core.errors import AlreadyRunningError, EngineUnavailableError

__all__ = ["State"]

_PREFORK_WAIT_S = 0.5


class State:
    """The one session of this process, and what starts, forks and ends it."""

    def __init__(self) -> None:
        self._lock: Lock = new_rlock()
        self._lock_held_for_fork = False
        self._at_exit_registered = False
        self._logged: set[str] = set()
        self.session: Session | None = None

    def start(
        self,
        owner: Owner,
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

    def _report(self, owner: Owner, config: Config) -> None:
        """Say once per process what was wrong in the environment."""
        problem = _log.configure(config.log_level, config.log_file)
        problems = list(owner.problems)
        if problem:
            problems.append(f"the log goes to stderr: {problem}")
        for text in problems:
            if text not in self._logged:
                self._logged.add(text)
                _log.log(_log.ERROR, "config", "%s", text)

    def _begin(
        self, owner: Owner, *, stop_on_exit: bool, profile_children: bool, launched: bool
    ) -> None:
        prefer = owner.config.engine
        engine, reason = choose(prefer)
        options: dict[str, Any] = {
            "stop_on_exit": stop_on_exit,
            "profile_children": profile_children,
            "launched": launched,
            "change": self.change,
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
        _scope.set_sampling(session.config.enabled)
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

    def change(self, wish: Wish, source: str) -> bool:
        """Have the running session follow; ``False`` when none runs here, or it is too busy."""
        with self._lock:
            session = self.session
            if session is None or session.process.pid != os.getpid():
                return False
            is_done = session.change(wish, source)
            _scope.set_sampling(session.config.enabled)
            return is_done

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
            "rate_hz": session.config.cpu_profile_rate,
            "enabled": session.config.enabled,
            "control": session.controls.stats(session.config),
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
            if self.session is not None:
                self.session.controls.prefork()
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
            _scope.set_sampling(session.config.enabled)
