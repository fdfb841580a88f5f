"""The profiler, as programs know it: what to start, and the functions of the package."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from conprof_core import _log
from conprof_core._config import Config, load
from conprof_core._engine import Row
from conprof_core._session import Session
from conprof_core._state import State
from conprof_core.errors import ConprofError
from conprof_core.exporters import Exporter, create

__all__ = ["Profiler", "change", "flush", "is_running", "session", "start", "stats", "stop"]


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
        self._sources = loaded.sources
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
        with _log.guard("stop"):
            if self.is_running:
                _state.stop(self._config.upload_timeout)

    def flush(self, timeout: float | None = None) -> bool:
        """Close the window now and send it; ``True`` when everything was delivered in time."""
        return self.is_running and flush(timeout)

    def stats(self) -> dict[str, Any]:
        """Return counters of the running session; see ``conprof_core.stats``."""
        return _state.stats()

    @property
    def sources(self) -> Mapping[str, str]:
        """Where the value of each option came from."""
        return self._sources

    @property
    def exporters(self) -> tuple[Exporter, ...] | None:
        """The destinations given as objects; ``None`` when ``export_to`` names them."""
        return self._exporters

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence for each variable that was set to something unusable."""
        return self._problems

    def make_exporters(self) -> tuple[Exporter, ...]:
        if self._exporters is not None:
            return self._exporters
        return tuple(create(destination) for destination in self._config.destinations())


_state = State()
change = _state.change


def start(**options: Any) -> None:
    """Start profiling this process with one line, typically at import of the application.

    Options are those of ``Profiler``; each can also come from the environment, and an explicit
    value wins. Calling it again with an equal configuration does nothing.

    Raises:
        ConfigError: an explicit option cannot be used.
        AlreadyRunningError: a differently configured profiler runs in this process.
        EngineUnavailableError: ``CONPROF_ENGINE`` demands an engine that cannot run here.
    """
    try:
        Profiler(**options).start()
    except ConprofError:
        raise
    except Exception as error:
        _log.swallow("start", error)


def start_launched() -> None:
    """Start for ``conprof run``: an explicit ``start()`` of the program may replace it later."""
    _state.start(Profiler(), launched=True)


def stop() -> None:
    """Stop profiling and send the last window, within ``upload_timeout``.

    Harmless when nothing runs. Safe to call from any thread; never raises.
    """
    with _log.guard("stop"):
        _state.stop()


def flush(timeout: float | None = None) -> bool:
    """Close the window now and send what waits; ``True`` when all of it was delivered.

    Blocks for at most ``timeout`` seconds, by default ``upload_timeout``. Never raises.
    """
    with _log.guard("flush"):
        return _state.flush(timeout)
    return False


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
    with _log.guard("stats"):
        return _state.stats()
    return {"running": is_running(), **_log.counts()}
