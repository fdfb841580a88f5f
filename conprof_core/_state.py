"""The one session of this process: the only module that knows the whole chain."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from typing import Any

from conprof_core import _carry, _fork, _held_gc, _log, _scope, _servers, _turns
from conprof_core._config import Config
from conprof_core._controls import Wish
from conprof_core._engine import EngineUnavailable, choose
from conprof_core._limits import EXIT_FLUSH_S
from conprof_core._session import Owner, Session, get_ahead_of_daemon_threads
from conprof_core._threads import Lock, new_rlock, thread_ident
from conprof_core.errors import AlreadyRunningError, ConprofError, EngineUnavailableError

__all__ = ["State"]

_PREFORK_WAIT_S = 0.5
_LOCK_WAIT_S = 1.0  # beside what the holder may take for its last upload


class _Fork:
    """One fork under way in the parent: in which thread, and whether it holds the lock."""

    __slots__ = ("ident", "is_holding", "lock")

    def __init__(self, lock: Lock) -> None:
        self.ident = thread_ident()
        self.lock = lock
        self.is_holding = False


class State:
    """The one session of this process, and what starts, forks and ends it."""

    def __init__(self) -> None:
        self._lock: Lock = new_rlock()
        self._pid = os.getpid()
        # Of each forking thread its own, the newest last: several may fork at once, and one may
        # fork in a hook of a fork. Appending and removing are atomic under the GIL.
        self._forks: list[_Fork] = []
        self._waits_given_up = 0
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
        """Start whole or not at all: what goes wrong within is undone, counted and logged.

        Raises:
            ConprofError: what was asked for cannot be had.
        """
        try:
            self._start(owner, stop_on_exit, profile_children, launched)
        except ConprofError:
            raise
        except (RuntimeError, MemoryError) as error:
            # Out of threads or of memory, or the interpreter is shutting down.
            why = str(error) or "out of memory"
            _log.log(_log.ERROR, "profiler", "not profiling this process: %s", why)
        except Exception:
            with _log.guard("start"):
                raise

    def _start(
        self, owner: Owner, stop_on_exit: bool, profile_children: bool, launched: bool
    ) -> None:
        self._adopt_process()
        lock = self._acquire(owner.config.upload_timeout, "start() does nothing")
        if lock is None:
            return
        try:
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
        finally:
            lock.release()

    def _adopt_process(self) -> None:
        """Become this process's own where a fork ran no hooks, as in an embedding server."""
        session = self.session
        is_foreign = session is not None and session.process.pid != os.getpid()
        if is_foreign or self._pid != os.getpid():
            # The lock, too, may be held by a thread that is not here.
            self.postfork_child()

    def _own_session(self) -> Session | None:
        """Return the session that runs in this very process."""
        session = self.session
        return None if session is None or session.process.pid != os.getpid() else session

    def _acquire(self, holder_s: float, what: str) -> Lock | None:
        """Take and return the lock; ``None``, and said once, when its holder keeps it for too long.

        It may be in the middle of an upload, ``holder_s`` at most, or fork while another hook of
        the application's hangs. (In a child that is forked meanwhile the lock is another one.)
        """
        lock = self._lock
        if lock.acquire(True, holder_s + _LOCK_WAIT_S):
            return lock
        self._waits_given_up += 1
        if what not in self._logged:
            self._logged.add(what)
            text = "another thread starts, stops or forks and does not come to an end: %s"
            _log.log(_log.ERROR, "profiler", text, what)
        return None

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
            session = Session(owner, engine, reason, **options)
        except EngineUnavailable as unavailable:
            if prefer is not None:
                raise EngineUnavailableError(prefer, unavailable.reason) from None
            engine, _ = choose("portable")
            reason = unavailable.reason
            session = Session(owner, engine, reason, **options)
        try:
            self.session = session
            _scope.set_sampling(session.config.enabled)
            self._install(owner.config)
        except BaseException:
            self._detach(session)
            session.abandon()
            raise
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

    def _install(self, config: Config) -> None:
        """Have labels travel, and forks and exits known."""
        if config.carry_labels:
            _carry.install()
        if config.trace_ids != "off":
            # Imported here: few want it, and those pay for it.
            from conprof_core import _traces

            to_pyroscope = any(url.startswith("pyroscope+") for url in config.export_to)
            _traces.install(config.trace_ids, mark_spans=to_pyroscope)
        _servers.install(self.flush)
        _fork.install(self)
        if not self._at_exit_registered:
            self._at_exit_registered = True
            atexit.register(self.at_exit)

    def stop(self, timeout_s: float | None = None, *, at_exit: bool = False) -> None:
        session = self.session
        if session is None:
            return
        if session.process.pid != os.getpid():
            self._detach(session)  # a fork that ran no hooks: the session is the parent's
            return
        timeout_s = session.owner.config.upload_timeout if timeout_s is None else timeout_s
        deadline = time.monotonic() + timeout_s
        lock = self._acquire(0.0 if at_exit else timeout_s, "stop() does nothing")
        if lock is None:
            return
        try:
            session = self.session
            if session is None:
                return
            _log.each(
                "stop",
                lambda: self._detach(session),
                lambda: session.end(deadline - time.monotonic()),
            )
            _log.log(_log.INFO, "profiler", "stopped")
        finally:
            lock.release()

    def _detach(self, session: Session) -> None:
        """Let go of a session, before it ends or where it runs in another process."""
        self.session = None
        traces = sys.modules.get("conprof_core._traces")
        has_traces = session.owner.config.trace_ids != "off"
        _log.each(
            "stop",
            lambda: _scope.set_sampling(False),
            _carry.uninstall,
            traces.uninstall if traces is not None and has_traces else None,
            _servers.uninstall,
        )

    def change(self, wish: Wish, source: str) -> bool:
        """Have the running session follow; ``False`` when none runs here, or it is too busy."""
        session = self._own_session()
        if session is None:
            return False
        lock = self._acquire(session.owner.config.upload_timeout, "a change is not made")
        if lock is None:
            return False
        try:
            session = self._own_session()
            if session is None:
                return False
            is_done = session.change(wish, source)
            _scope.set_sampling(session.config.enabled)
            return is_done
        finally:
            lock.release()

    def flush(self, timeout_s: float | None) -> bool:
        session = self._own_session()
        if session is None:
            return True
        limit = session.owner.config.upload_timeout if timeout_s is None else timeout_s
        return session.loop.flush(limit)

    def stats(self) -> dict[str, Any]:
        session = self.session
        common: dict[str, Any] = {
            "running": session is not None,
            **_log.counts(),
            "waits_given_up": self._waits_given_up,
        }
        if session is None:
            return common
        details: dict[str, Any] = {}
        with _log.guard("stats"):
            details = self._details(session)
        return {**common, **details}

    def _details(self, session: Session) -> dict[str, Any]:
        return {
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
            session = self._own_session()
            if session is None:
                return
            if session.stop_on_exit:
                get_ahead_of_daemon_threads()
                self.stop(min(EXIT_FLUSH_S, session.owner.config.upload_timeout), at_exit=True)
            else:
                session.engine.stop()

    # Fork steps; see _fork -----------------------------------------------------------------------

    def prefork(self) -> None:
        with _log.guard("fork"):
            fork = _Fork(self._lock)
            # Before anything is parked: whoever ends its fork meanwhile leaves that to us.
            self._forks.append(fork)
            if self.session is not None:
                self.session.controls.prefork()
            # Not for ever: a thread that hangs in start() or stop() must not hang the fork.
            fork.is_holding = fork.lock.acquire(True, _PREFORK_WAIT_S)
            session = self._own_session()
            if session is not None:
                session.prefork()

    def postfork_parent(self) -> None:
        fork = self._end_fork()
        if fork is None:
            return  # begun in the parent, by a hook of the fork that made this process
        with _log.guard("fork"):
            session = self._own_session()
            # Of several forks at once the last one has the threads begin again.
            if session is not None and not self._forks:
                session.postfork_parent()
        if fork.is_holding:
            fork.lock.release()

    def _end_fork(self) -> _Fork | None:
        ident = thread_ident()
        for fork in reversed(self._forks[:]):
            if fork.ident == ident:
                self._forks.remove(fork)
                return fork
        return None

    def postfork_child(self) -> None:
        session, pid = self.session, os.getpid()
        is_announced = bool(self._forks) or self._pid != pid
        if not is_announced and (session is None or session.process.pid == pid):
            return  # announced twice, as by uWSGI with its Python fork hooks on
        self._lock = new_rlock()
        self._pid = pid
        self._forks.clear()
        self._waits_given_up = 0
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
            try:
                session.begin()
            except Exception as error:
                session.abandon()
                if not isinstance(error, (RuntimeError, MemoryError, EngineUnavailable)):
                    raise
                why = str(error) or "out of memory"
                _log.log(_log.ERROR, "profiler", "not profiling this process: %s", why)
                return
            self.session = session
            _scope.set_sampling(session.config.enabled)
