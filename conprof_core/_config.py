"""What the user asked for: defaults < environment < explicit, read and checked once at start."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

from conprof_core import _log, exporters
from conprof_core._limits import HEAP_SAMPLE_BYTES
from conprof_core._options import NOWHERE, OPTION_NAMED, OPTIONS, Option, ProfileType
from conprof_core.errors import ConfigError
from conprof_core.exporters.naming import Measured

__all__ = ["Config", "Loaded", "load"]


class Config:
    """The effective configuration; checked on construction, immutable, compared by value.

    The environment is not read here: ``load()`` combines it with explicit options. See
    ``docs/configuration.md`` for each field.

    Raises:
        ConfigError: a value cannot be used.
    """

    # Not a dataclass: that module alone would be a third of the time that the package takes to
    # import, in every process of the application.
    application_name: str | None
    cpu_duration: float
    period: float
    cpu_profile_rate: int
    profile_types: tuple[ProfileType, ...]
    heap_sample_bytes: int
    heap_old_windows: int
    heap_tracemalloc: bool
    loop_blocked_threshold: float
    labels: Mapping[str, str]
    agent_socket: str
    server_id: str | None
    server_token: str | None
    upload_timeout: float
    export_to: tuple[str, ...]
    pull: bool
    pull_token: str | None
    spool_dir: str
    spool_bytes: int
    carry_labels: bool
    trace_ids: str
    engine: str | None
    disabled: bool
    enabled: bool
    control_file: str
    control_signal: str
    log_file: str
    log_level: int

    def __init__(self, **options: object) -> None:
        for name, value in options.items():
            if name not in OPTION_NAMED:
                _refuse_unknown(name, value)
        values = self.__dict__
        for option in OPTIONS:
            given = options.get(option.name, option.default)
            values[option.name] = _parse(option, given)
        # As in the Go profiler: a profile cannot take longer than the period it belongs to.
        values["cpu_duration"] = min(values["cpu_duration"], values["period"])

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a configuration is immutable; {name} cannot be changed")

    __delattr__ = __setattr__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if isinstance(other, Config) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.application_name, self.period, self.cpu_profile_rate, self.export_to))

    def __repr__(self) -> str:
        shown = (
            f"{option.name}={self.__dict__[option.name]!r}"
            for option in OPTIONS
            if not option.secret
        )
        return f"Config({', '.join(shown)})"

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of all options."""
        return tuple(OPTION_NAMED)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **explicit: object) -> Config:
        """Return defaults < environment < explicit; unusable variables are passed over."""
        return load(explicit, environ).config

    def replace(self, **changes: object) -> Config:
        """Return a configuration that differs in these options.

        Raises:
            ConfigError: a value cannot be used.
        """
        return Config(**{**self.__dict__, **changes})

    @property
    def measured(self) -> Measured:
        """What names and periods on the wire depend on."""
        types = tuple(str(kind) for kind in self.profile_types)
        return Measured(self.cpu_profile_rate, types, self.heap_sample_bytes or HEAP_SAMPLE_BYTES)

    def destinations(self) -> tuple[exporters.Destination, ...]:
        """Return where windows go, in the order of ``export_to``; by default the agent."""
        if self.export_to == (NOWHERE,):
            return ()
        return tuple(
            exporters.Destination(
                url, self.measured, self.agent_socket, self.server_id, self.server_token
            )
            for url in self.export_to or ("blackfire:",)
        )

    def differing(self, other: Config) -> tuple[str, ...]:
        """Return the names of the fields in which two configurations differ."""
        mine, theirs = self.__dict__, other.__dict__
        return tuple(name for name in mine if mine[name] != theirs[name])


class Loaded(NamedTuple):
    """A configuration with where it came from.

    Attributes:
        config: the effective configuration.
        sources: option → ``default``, ``argument`` or the variable's name.
        problems: one sentence for each variable that was set to something unusable.
    """

    config: Config
    sources: Mapping[str, str]
    problems: tuple[str, ...]


def load(explicit: Mapping[str, object], environ: Mapping[str, str] | None = None) -> Loaded:
    """Combine defaults, environment and explicit options. An explicit ``None`` means "not given".

    Raises:
        ConfigError: an explicit option is unknown or its value cannot be used.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    sources = {option.name: "default" for option in OPTIONS}
    problems: list[str] = []
    for name, value in explicit.items():
        option = OPTION_NAMED.get(name)
        if option is None:
            _refuse_unknown(name, value)
        if value is not None:
            values[name] = _parse(option, value)
            sources[name] = "argument"
    for option in OPTIONS:
        if option.name in values:
            continue
        for variable in option.variables:
            text = environ.get(variable, "")
            if not text.strip():
                continue
            try:
                values[option.name] = _parse(option, text)
            except ConfigError as error:
                shown = "(hidden)" if option.secret else repr(text[:200])
                problems.append(f"{variable}={shown} is ignored: {error.allowed}")
                continue
            sources[option.name] = variable
            break
    if "period" in values and "cpu_duration" not in values:
        # The default duration is the whole period, whatever the period is.
        values["cpu_duration"] = values["period"]
    return Loaded(Config(**values), MappingProxyType(sources), tuple(problems))


def _parse(option: Option, value: object) -> Any:
    """Return the value of an option; its default, where reading it fails in a way of its own.

    Raises:
        ConfigError: the value cannot be used.
    """
    try:
        return option.parse(option.name, value)
    except ConfigError:
        raise
    except Exception as error:
        _log.swallow("config", error)
        return option.parse(option.name, option.default)


def _refuse_unknown(name: str, value: object) -> NoReturn:
    raise ConfigError(
        name, value, f"there is no such option; options are {', '.join(OPTION_NAMED)}"
    )
