"""What a value of an option may be: one parser for each kind.

A parser takes what a caller or a variable gave and returns the value as ``Config`` holds it, or
raises ``ConfigError``. Text is accepted everywhere, so that one parser serves both.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from conprof_core import exporters
from conprof_core._engine import ENGINES
from conprof_core._limits import (
    MAX_HEAP_OLD_WINDOWS,
    MAX_HEAP_SAMPLE_BYTES,
    MIN_HEAP_SAMPLE_BYTES,
    MIN_TOKEN,
)
from conprof_core.errors import ConfigError

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


def _whole(option: str, value: object, allowed: str, low: int, high: int) -> int:
    number = _number(option, value, allowed, low, high)
    if number != int(number):
        raise ConfigError(option, value, allowed)
    return int(number)


def seconds(low: float, high: float) -> Callable[[str, object], float]:
    allowed = f"allowed is a number of seconds from {low:g} to {high:g}"
    return lambda option, value: _number(option, value, allowed, low, high)


def whole(what: str, low: int, high: int) -> Callable[[str, object], int]:
    allowed = f"allowed is a whole number of {what} from {low} to {high}"

    def parse(option: str, value: object) -> int:
        return _whole(option, value, allowed, low, high)

    return parse


def heap_sample_bytes(option: str, value: object) -> int:
    low, high = MIN_HEAP_SAMPLE_BYTES, MAX_HEAP_SAMPLE_BYTES
    allowed = f"allowed is a whole number of bytes from {low} to {high}, or 0 (automatic)"
    number = _whole(option, value, allowed, 0, high)
    if 0 < number < low:
        raise ConfigError(option, value, allowed)
    return number


def windows(option: str, value: object) -> int:
    allowed = f"allowed is a whole number from 0 (off) to {MAX_HEAP_OLD_WINDOWS}"
    return _whole(option, value, allowed, 0, MAX_HEAP_OLD_WINDOWS)


def level(option: str, value: object) -> int:
    allowed = "allowed is 1 (errors), 2 (warnings), 3 (information) or 4 (debugging)"
    return _whole(option, value, allowed, 1, 4)


def _text(option: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError(option, value, "allowed is a string")
    return value.strip()


def optional_text(option: str, value: object) -> str | None:
    return (_text(option, value) or None) if value is not None else None


def path(option: str, value: object) -> str:
    return _text(option, os.fspath(value) if isinstance(value, os.PathLike) else value)


def spool_dir(option: str, value: object) -> str:
    place = path(option, value) if value is not None else ""
    if place and sys.platform == "win32":
        raise ConfigError(option, value, "a spool needs flock, which Windows does not have")
    if "\0" in place:
        raise ConfigError(option, value, "allowed is the path of a directory")
    return place


def secret(option: str, value: object) -> str | None:
    """Like text, but the value never enters an error message, a log line or a report."""
    if value is None or isinstance(value, str):
        return (value or "").strip() or None
    raise ConfigError(option, "(hidden)", "allowed is a string")


def token(option: str, value: object) -> str | None:
    found = secret(option, value)
    if found is None:
        return None
    # What a header can carry, and nobody guesses.
    if len(found) < MIN_TOKEN or not (found.isascii() and found.isprintable()) or " " in found:
        raise ConfigError(
            option, "(hidden)", f"allowed are {MIN_TOKEN} or more ASCII characters without blanks"
        )
    return found


def flag(option: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.strip().lower()
        if word in {"1", "true", "yes", "on"}:
            return True
        if word in {"", "0", "false", "no", "off"}:
            return False
    raise ConfigError(option, value, "allowed is true or false (1, yes, on, 0, no, off)")


def engine(option: str, value: object) -> str | None:
    if value is None or value in ENGINES:
        return value if isinstance(value, str) else None
    raise ConfigError(option, value, f"allowed is one of {', '.join(ENGINES)}")


def trace_ids(option: str, value: object) -> str:
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


def profile_types(option: str, value: object) -> tuple[ProfileType, ...]:
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


def export_to(option: str, value: object) -> tuple[str, ...]:
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


def labels(option: str, value: object) -> Mapping[str, str]:
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
