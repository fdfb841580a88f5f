"""The one table of options: names, variables, defaults, and what each value may be.

``conprof doctor``, the command line and ``docs/configuration.md`` follow ``OPTIONS``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from conprof_core import exporters
from conprof_core._agent_socket import agent_socket, default_agent_socket
from conprof_core._control import parse_signal
from conprof_core._engine import ENGINES
from conprof_core._limits import (
    MAX_HEAP_OLD_WINDOWS,
    MAX_HEAP_SAMPLE_BYTES,
    MAX_RATE_HZ,
    MAX_SPOOL_BYTES,
    MIN_HEAP_SAMPLE_BYTES,
    MIN_RATE_HZ,
    MIN_SPOOL_BYTES,
    MIN_TOKEN,
)
from conprof_core.errors import ConfigError

__all__ = ["NOWHERE", "OPTIONS", "OPTION_NAMED", "Option", "ProfileType"]

NOWHERE: Final = "none:"
"""The one URL of ``export_to`` that names no destination: profiles are only pulled."""


class ProfileType(StrEnum):
    """What is measured. Engines offer more types in later versions."""

    CPU = "cpu"
    HEAP = "heap"
    WALL = "wall"
    TASKS = "tasks"


_TYPE_ALIASES: Final = {"goroutine": "tasks", "goroutines": "tasks"}
"""What Go and its probe call it."""

TRACE_SOURCES: Final = ("off", "otel", "ddtrace", "sentry", "auto")

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


def _whole(what: str, low: int, high: int) -> Callable[[str, object], int]:
    allowed = f"allowed is a whole number of {what} from {low} to {high}"

    def parse(option: str, value: object) -> int:
        number = _number(option, value, allowed, low, high)
        if number != int(number):
            raise ConfigError(option, value, allowed)
        return int(number)

    return parse


def _windows(option: str, value: object) -> int:
    allowed = f"allowed is a whole number from 0 (off) to {MAX_HEAP_OLD_WINDOWS}"
    number = _number(option, value, allowed, 0, MAX_HEAP_OLD_WINDOWS)
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


def _spool_dir(option: str, value: object) -> str:
    path = _path(option, value) if value is not None else ""
    if path and sys.platform == "win32":
        raise ConfigError(option, value, "a spool needs flock, which Windows does not have")
    if "\0" in path:
        raise ConfigError(option, value, "allowed is the path of a directory")
    return path


def _secret(option: str, value: object) -> str | None:
    """Like text, but the value never enters an error message, a log line or a report."""
    if value is None or isinstance(value, str):
        return (value or "").strip() or None
    raise ConfigError(option, "(hidden)", "allowed is a string")


def _token(option: str, value: object) -> str | None:
    token = _secret(option, value)
    if token is None:
        return None
    # What a header can carry, and nobody guesses.
    if len(token) < MIN_TOKEN or not (token.isascii() and token.isprintable()) or " " in token:
        raise ConfigError(
            option, "(hidden)", f"allowed are {MIN_TOKEN} or more ASCII characters without blanks"
        )
    return token


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


def _trace_ids(option: str, value: object) -> str:
    text = value.strip().lower() if isinstance(value, str) else ""
    if text not in TRACE_SOURCES:
        raise ConfigError(option, value, f"allowed is one of {', '.join(TRACE_SOURCES)}")
    return text


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
            kind = ProfileType(_TYPE_ALIASES.get(word.lower(), word.lower()))
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
    if NOWHERE in urls:
        if len(set(urls)) > 1:
            raise ConfigError(option, value, f"{NOWHERE} means no destination, and stands alone")
        return (NOWHERE,)
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
        default: what holds when nothing is given.
        secret: never shown.
    """

    name: str
    variables: tuple[str, ...]
    parse: Callable[[str, object], Any]
    help: str
    default: object = None
    secret: bool = False


OPTIONS: Final[tuple[Option, ...]] = (
    Option(
        "application_name",
        ("BLACKFIRE_CONPROF_APP_NAME", "PLATFORM_APPLICATION_NAME", "OTEL_SERVICE_NAME"),
        _optional_text,
        "name of the service; default: name of the program",
    ),
    Option(
        "cpu_duration",
        ("BLACKFIRE_CONPROF_CPU_DURATION",),
        _seconds(0.1, 86_400),
        "seconds of each period in which samples are taken",
        default=45.0,
    ),
    Option(
        "period",
        ("BLACKFIRE_CONPROF_PERIOD",),
        _seconds(0.1, 86_400),
        "seconds from one upload to the next",
        default=45.0,
    ),
    Option(
        "cpu_profile_rate",
        ("BLACKFIRE_CONPROF_CPU_PROFILERATE",),
        _whole("Hz", MIN_RATE_HZ, MAX_RATE_HZ),
        "samples per second of CPU time",
        default=100,
    ),
    Option(
        "profile_types",
        ("CONPROF_PROFILE_TYPES",),
        _profile_types,
        "what is measured",
        default=(ProfileType.CPU,),
    ),
    Option(
        "heap_sample_bytes",
        ("CONPROF_HEAP_SAMPLE_BYTES",),
        _whole("bytes", MIN_HEAP_SAMPLE_BYTES, MAX_HEAP_SAMPLE_BYTES),
        "allocated bytes between two samples, on average",
        default=512 * 1024,
    ),
    Option(
        "heap_old_windows",
        ("CONPROF_HEAP_OLD_WINDOWS",),
        _windows,
        "windows after which live memory is labelled heap.age=old; 0: never",
        default=0,
    ),
    Option(
        "heap_tracemalloc",
        ("CONPROF_HEAP_TRACEMALLOC",),
        _flag,
        "let the portable engine profile live memory with tracemalloc, which is expensive",
        default=False,
    ),
    Option(
        "loop_blocked_threshold",
        ("CONPROF_LOOP_BLOCKED_THRESHOLD",),
        _seconds(0.05, 3_600),
        "seconds that a callback may keep an event loop before it counts as blocking it",
        default=0.1,
    ),
    Option(
        "labels",
        ("CONPROF_LABELS",),
        _labels,
        "labels of the process, sent with each upload",
        default=MappingProxyType({}),
    ),
    Option(
        "agent_socket",
        ("BLACKFIRE_AGENT_SOCKET",),
        agent_socket,
        "where the Blackfire Agent listens",
        default=default_agent_socket(),
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
        default=10.0,
    ),
    Option(
        "export_to",
        ("CONPROF_EXPORT_TO",),
        _export_to,
        "URLs; default: the agent socket; none: for no destination",
        default=(),
    ),
    Option(
        "pull", ("CONPROF_PULL",), _flag, "let the adapters answer /debug/pprof/", default=False
    ),
    Option(
        "pull_token",
        ("CONPROF_PULL_TOKEN",),
        _token,
        "what a reader of /debug/pprof/ must know; default: only this machine may read",
        secret=True,
    ),
    Option(
        "spool_dir",
        ("CONPROF_SPOOL_DIR",),
        _spool_dir,
        "directory for windows that wait while a destination is away; default: memory only",
        default="",
    ),
    Option(
        "spool_bytes",
        ("CONPROF_SPOOL_BYTES",),
        _whole("bytes", MIN_SPOOL_BYTES, MAX_SPOOL_BYTES),
        "bytes that one process may keep there for one destination",
        default=64 << 20,
    ),
    Option(
        "carry_labels",
        ("CONPROF_CARRY_LABELS",),
        _flag,
        "hand labels to threads, executors and greenlets that a request starts",
        default=True,
    ),
    Option(
        "trace_ids",
        ("CONPROF_TRACE_IDS",),
        _trace_ids,
        "tracer whose trace and span ids travel with the samples: otel, ddtrace, sentry, auto, off",
        default="off",
    ),
    Option("engine", ("CONPROF_ENGINE",), _engine, "native or portable; default: what can run"),
    Option(
        "disabled", ("CONPROF_DISABLED",), _flag, "kill switch: start() does nothing", default=False
    ),
    Option("enabled", ("CONPROF_ENABLED",), _flag, "no: begin in standby", default=True),
    Option("control_file", ("CONPROF_CONTROL_FILE",), _path, "file to follow", default=""),
    Option(
        "control_signal", ("CONPROF_CONTROL_SIGNAL",), parse_signal, "turns off and on", default=""
    ),
    Option(
        "log_file", ("BLACKFIRE_LOG_FILE",), _path, "file that the log goes to", default="stderr"
    ),
    Option(
        "log_level",
        ("BLACKFIRE_LOG_LEVEL",),
        _level,
        "1 errors, 2 warnings, 3 info, 4 debug",
        default=1,
    ),
)

OPTION_NAMED: Final = {option.name: option for option in OPTIONS}
