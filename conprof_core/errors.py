"""Every exception conprof raises on purpose.

    ConprofError
    ├── ConfigError              an explicit option cannot be used (also a ValueError)
    ├── AlreadyRunningError      start() while a differently configured profiler runs
    ├── EngineUnavailableError   the engine that was demanded cannot run here
    └── ExportError              a profile could not be handed over

Only ``start()``, ``reconfigure()`` and the constructors of ``Config`` and ``Profiler`` raise;
nothing that a running profiler does by itself raises into the application.
"""

from __future__ import annotations

__all__ = [
    "AlreadyRunningError",
    "ConfigError",
    "ConprofError",
    "EngineUnavailableError",
    "ExportError",
]


class ConprofError(Exception):
    """Base of all errors raised by conprof."""


class ConfigError(ConprofError, ValueError):
    """An option has a value that cannot be used.

    Attributes:
        option: name of the option, as passed to ``start()``.
        value: what was given.
        allowed: what would have been accepted, for people.
    """

    def __init__(self, option: str, value: object, allowed: str) -> None:
        super().__init__(option, value, allowed)
        self.option = option
        self.value = value
        self.allowed = allowed

    def __str__(self) -> str:
        return f"{self.option}={self.value!r} is not usable: {self.allowed}"


class AlreadyRunningError(ConprofError, RuntimeError):
    """A profiler with another configuration runs in this process.

    Attributes:
        differing: names of the options in which the two configurations differ; empty when another
            ``Profiler`` object, rather than another configuration, is what runs.
    """

    def __init__(self, differing: tuple[str, ...] = ()) -> None:
        super().__init__(differing)
        self.differing = differing

    def __str__(self) -> str:
        what = f" with other values of {', '.join(self.differing)}" if self.differing else ""
        return (
            f"a profiler already runs in this process{what}; "
            "call conprof_core.stop() first, or start it in one place only"
        )


class EngineUnavailableError(ConprofError, RuntimeError):
    """The engine demanded by ``CONPROF_ENGINE`` cannot run in this process.

    Attributes:
        engine: name of the engine.
        reason: why it cannot run.
    """

    def __init__(self, engine: str, reason: str) -> None:
        super().__init__(engine, reason)
        self.engine = engine
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"the {self.engine} engine cannot run here: {self.reason}; "
            "unset CONPROF_ENGINE to let conprof choose"
        )


class ExportError(ConprofError):
    """A profile could not be handed to its destination."""
