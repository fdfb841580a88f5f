"""What the user asked for: defaults < environment < explicit, read and checked once at start.

``OPTIONS`` is the one table of options and variable names; ``conprof doctor``, the command line and
``docs/configuration.md`` follow it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple, NoReturn

from conprof_core import exporters
from conprof_core._engine import ENGINES
from conprof_core._limits import MAX_RATE_HZ, MIN_RATE_HZ
from conprof_core.errors import ConfigError
from conprof_core.exporters.naming import Measured

__all__ = ["OPTIONS", "Config", "Loaded", "Option", "ProfileType", "default_agent_socket", "load"]


class ProfileType(StrEnum):
    """What is measured. Engines offer more types in later versions."""

    CPU = "cpu"


AGENT_SOCKET_FORMS: Final = (
    "allowed are unix:///path/agent.sock, tcp://host:port, http://host:port, https://host:port"
)
_AGENT_SCHEMES: Final = frozenset({"unix", "tcp", "http", "https"})


def default_agent_socket() -> str:
    """Return where the Blackfire Agent listens on this operating system by default."""
    if sys.platform == "win32":
        return "tcp://127.0.0.1:8307"
    if sys.platform == "darwin":
        prefix = "/opt/homebrew" if os.uname().machine == "arm64" else "/usr/local"
        return f"unix://{prefix}/var/run/blackfire-agent.sock"
    return "unix:///var/run/blackfire/agent.sock"


# Each parser takes what a caller or a variable gave and returns the value as Config holds it, or
# raises ConfigError. Text is accepted everywhere, so that one parser serves both.


def _number(option: str, value: object, allowed: str, low: float, high: float) -> float:
    number = value
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            raise ConfigError(option, value, allowed) from None
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise ConfigError(option, value, allowed)
    if not low <= number <= high:  # also refuses NaN
        raise ConfigError(option, value, allowed)
    return float(number)


def _seconds(low: float, high: float) -> Callable[[str, object], float]:
    allowed = f"allowed is a number of seconds from {low:g} to {high:g}"
    return lambda option, value: _number(option, value, allowed, low, high)


def _rate(option: str, value: object) -> int:
    allowed = f"allowed is a whole number of Hz from {MIN_RATE_HZ} to {MAX_RATE_HZ}"
    number = _number(option, value, allowed, MIN_RATE_HZ, MAX_RATE_HZ)
    if number != int(number):
        raise ConfigError(option, value, allowed)
    return int(number)


def _level(option: str, value: object) -> int:
    allowed = "allowed is 1 (errors), 2 (warnings), 3 (information) or 4 (debugging)"
    number = _number(option, value, allowed, 1, 4)
    if number != int(number):
        raise ConfigError(option, value, allowed)
    return int(number)


def _text(option: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError(option, value, "allowed is a string")
    return value.strip()


def _optional_text(option: str, value: object) -> str | None:
    return (_text(option, value) or None) if value is not None else None


def _path(option: str, value: object) -> str:
    return _text(option, os.fspath(value) if isinstance(value, os.PathLike) else value)


def _secret(option: str, value: object) -> str | None:
    """Like text, but the value never enters an error message, a log line or a report."""
    if value is None or isinstance(value, str):
        return (value or "").strip() or None
    raise ConfigError(option, "(hidden)", "allowed is a string")


def _flag(option: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.strip().lower()
        if word in {"1", "true", "yes", "on"}:
            return True
        if word in {"", "0", "false", "no", "off"}:
            return False
    raise ConfigError(option, value, "allowed is true or false (1, yes, on, 0, no, off)")


def _engine(option: str, value: object) -> str | None:
    if value is None or value in ENGINES:
        return value if isinstance(value, str) else None
    raise ConfigError(option, value, f"allowed is one of {', '.join(ENGINES)}")


def _agent_socket(option: str, value: object) -> str:
    text = value.strip() if isinstance(value, str) else ""
    scheme, separator, address = text.partition("://")
    address = address.rstrip("/")
    if not separator or scheme.lower() not in _AGENT_SCHEMES or not address:
        raise ConfigError(option, value, AGENT_SOCKET_FORMS)
    if any(character.isspace() or not character.isprintable() for character in address):
        raise ConfigError(option, value, AGENT_SOCKET_FORMS)
    if scheme.lower() != "unix":
        _check_port(option, value, address)
    return f"{scheme.lower()}://{address}"


def _check_port(option: str, value: object, address: str) -> None:
    host, colon, port = address.split("/", 1)[0].rpartition(":")
    if colon and not port.endswith("]"):
        if not (port.isdecimal() and 0 < int(port) < 65536 and host):
            raise ConfigError(option, value, AGENT_SOCKET_FORMS)
    elif value is not None and str(value).startswith("tcp:"):
        raise ConfigError(option, value, AGENT_SOCKET_FORMS)


def _words(option: str, value: object, allowed: str) -> list[str]:
    if isinstance(value, str):
        return [word for word in value.replace(",", " ").split() if word]
    if isinstance(value, Iterable) and not isinstance(value, (bytes, Mapping)):
        words = list(value)
        if all(isinstance(word, str) for word in words):
            return words
    raise ConfigError(option, value, allowed)


def _profile_types(option: str, value: object) -> tuple[ProfileType, ...]:
    available = ", ".join(ProfileType)
    allowed = f"available are: {available}"
    chosen: list[ProfileType] = []
    for word in _words(option, value, allowed):
        try:
            kind = ProfileType(word.lower())
        except ValueError:
            raise ConfigError(option, value, allowed) from None
        if kind not in chosen:
            chosen.append(kind)
    if not chosen:
        raise ConfigError(option, value, f"at least one is needed; {allowed}")
    return tuple(chosen)


def _export_to(option: str, value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    urls = tuple(_words(option, value, "allowed is a URL or a list of URLs"))
    for url in urls:
        exporters.check_url(option, url)
    return urls


def _labels(option: str, value: object) -> Mapping[str, str]:
    """A mapping, or ``key=value,key=value``. Values are cleaned when they travel."""
    allowed = "allowed is a mapping of names to values; in the environment key=value,key=value"
    if value is None:
        return MappingProxyType({})
    pairs: dict[str, str] = {}
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str) or not key.strip():
                raise ConfigError(option, value, allowed)
            pairs[key.strip()] = str(item)
    elif isinstance(value, str):
        for part in filter(None, (piece.strip() for piece in value.split(","))):
            key, separator, item = part.partition("=")
            if not separator or not key.strip():
                raise ConfigError(option, value, allowed)
            pairs[key.strip()] = item.strip()
    else:
        raise ConfigError(option, value, allowed)
    return MappingProxyType(pairs)


class Option(NamedTuple):
    """One row of the table of options.

    Attributes:
        name: field of ``Config`` and keyword of ``start()``.
        variables: environment variables, the first that is set and usable wins.
        parse: checks a value and brings it into the form that ``Config`` holds.
        help: one line for people.
        secret: never shown.
    """

    name: str
    variables: tuple[str, ...]
    parse: Callable[[str, object], Any]
    help: str
    secret: bool = False


OPTIONS: Final[tuple[Option, ...]] = (
    Option(
        "application_name",
        ("BLACKFIRE_CONPROF_APP_NAME", "PLATFORM_APPLICATION_NAME"),
        _optional_text,
        "name of the service; default: name of the program",
    ),
    Option(
        "cpu_duration",
        ("BLACKFIRE_CONPROF_CPU_DURATION",),
        _seconds(0.1, 86_400),
        "seconds of each period in which samples are taken",
    ),
    Option(
        "period",
        ("BLACKFIRE_CONPROF_PERIOD",),
        _seconds(0.1, 86_400),
        "seconds from one upload to the next",
    ),
    Option(
        "cpu_profile_rate",
        ("BLACKFIRE_CONPROF_CPU_PROFILERATE",),
        _rate,
        "samples per second of CPU time",
    ),
    Option("profile_types", ("CONPROF_PROFILE_TYPES",), _profile_types, "what is measured"),
    Option("labels", ("CONPROF_LABELS",), _labels, "labels of the process, sent with each upload"),
    Option(
        "agent_socket",
        ("BLACKFIRE_AGENT_SOCKET",),
        _agent_socket,
        "where the Blackfire Agent listens",
    ),
    Option("server_id", ("BLACKFIRE_SERVER_ID",), _secret, "user of the upload", secret=True),
    Option(
        "server_token", ("BLACKFIRE_SERVER_TOKEN",), _secret, "password of the upload", secret=True
    ),
    Option(
        "upload_timeout",
        ("BLACKFIRE_CONPROF_UPLOAD_TIMEOUT",),
        _seconds(0.1, 600),
        "seconds that one upload, and stop(), may take in all",
    ),
    Option("export_to", ("CONPROF_EXPORT_TO",), _export_to, "URLs; default: the agent socket"),
    Option(
        "carry_labels",
        ("CONPROF_CARRY_LABELS",),
        _flag,
        "hand labels to threads, executors and greenlets that a request starts",
    ),
    Option("engine", ("CONPROF_ENGINE",), _engine, "native or portable; default: what can run"),
    Option("disabled", ("CONPROF_DISABLED",), _flag, "kill switch: start() does nothing"),
    Option("log_file", ("BLACKFIRE_LOG_FILE",), _path, "file that the log goes to"),
    Option("log_level", ("BLACKFIRE_LOG_LEVEL",), _level, "1 errors, 2 warnings, 3 info, 4 debug"),
)

_BY_NAME: Final = {option.name: option for option in OPTIONS}


@dataclass(frozen=True)
class Config:
    """The effective configuration; checked on construction, immutable, compared by value.

    The environment is not read here: ``load()`` combines it with explicit options. See
    ``docs/configuration.md`` for each field.

    Raises:
        ConfigError: a value cannot be used.
    """

    application_name: str | None = None
    cpu_duration: float = 45.0
    period: float = 45.0
    cpu_profile_rate: int = 100
    profile_types: tuple[ProfileType, ...] = (ProfileType.CPU,)
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    agent_socket: str = field(default_factory=default_agent_socket)
    server_id: str | None = field(default=None, repr=False)
    server_token: str | None = field(default=None, repr=False)
    upload_timeout: float = 10.0
    export_to: tuple[str, ...] = ()
    carry_labels: bool = True
    engine: str | None = None
    disabled: bool = False
    log_file: str = "stderr"
    log_level: int = 1

    def __post_init__(self) -> None:
        for option in OPTIONS:
            value = option.parse(option.name, getattr(self, option.name))
            object.__setattr__(self, option.name, value)
        # As in the Go profiler: a profile cannot take longer than the period it belongs to.
        if self.cpu_duration > self.period:
            object.__setattr__(self, "cpu_duration", self.period)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **explicit: object) -> Config:
        """Return defaults < environment < explicit; unusable variables are passed over."""
        return load(explicit, environ).config

    @property
    def measured(self) -> Measured:
        """What names and periods on the wire depend on."""
        return Measured(self.cpu_profile_rate, tuple(str(kind) for kind in self.profile_types))

    def destinations(self) -> tuple[exporters.Destination, ...]:
        """Return where windows go, in the order of ``export_to``; by default the agent."""
        return tuple(
            exporters.Destination(
                url, self.measured, self.agent_socket, self.server_id, self.server_token
            )
            for url in self.export_to or ("blackfire:",)
        )

    def differing(self, other: Config) -> tuple[str, ...]:
        """Return the names of the fields in which two configurations differ."""
        names = (item.name for item in fields(self))
        return tuple(name for name in names if getattr(self, name) != getattr(other, name))


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
        option = _BY_NAME.get(name)
        if option is None:
            _refuse_unknown(name, value)
        if value is not None:
            values[name] = option.parse(name, value)
            sources[name] = "argument"
    for option in OPTIONS:
        if option.name in values:
            continue
        for variable in option.variables:
            text = environ.get(variable, "")
            if not text.strip():
                continue
            try:
                values[option.name] = option.parse(option.name, text)
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


def _refuse_unknown(name: str, value: object) -> NoReturn:
    raise ConfigError(name, value, f"there is no such option; options are {', '.join(_BY_NAME)}")
