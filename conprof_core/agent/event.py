"""``event.json``, or the older form fields → when the window was and which process it is about."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from conprof_core.agent import limits
from conprof_core.agent.errors import UploadRefusedError
from conprof_core.agent.text import clean

__all__ = ["Event", "parse_event", "parse_fields"]

_TIME: Final = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:?\d\d)?", re.ASCII
)
_COUNT: Final = re.compile(r"\d{1,15}", re.ASCII)

# Tags that change with every upload: they would make every window a process of its own.
_VOLATILE: Final = frozenset(
    {"profile_seq", "profile_id", "_dd.profiler.go_execution_trace_enabled"}
)
# Tags that count what the window lost: about the window, not about the process.
_COUNTED: Final = "conprof_lost_"


@dataclass(frozen=True, slots=True)
class Event:
    """What an upload says about itself.

    Attributes:
        start_ns, end_ns: unix time; 0 when the event does not say.
        counters: integers under ``internal``, and of the tags ``conprof_lost_<reason>``, under
            ``lost.<reason>``: what the probe took and lost.
        endpoints: route → requests it served in the window.
    """

    start_ns: int
    end_ns: int
    service: str
    tags: tuple[tuple[str, str], ...]
    counters: dict[str, int]
    endpoints: dict[str, int]


def parse_event(content: bytes) -> Event:
    """Return what an ``event.json`` of version 4 says.

    Raises:
        UploadRefusedError: not JSON, or a field of the wrong type.
    """
    if len(content) > limits.MAX_EVENT:
        raise UploadRefusedError("event.json is too large", 413)
    try:
        event = json.loads(content)
    except (ValueError, RecursionError):
        raise UploadRefusedError("event.json is not JSON") from None
    if not isinstance(event, dict):
        raise UploadRefusedError("event.json is not an object")
    tags = event.get("tags_profiler", "")
    if isinstance(tags, str):
        tags = tags.split(",")
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise UploadRefusedError("tags_profiler is neither text nor a list of texts")
    family = event.get("family")
    return _event(
        _time(event.get("start"), "start"),
        _time(event.get("end"), "end"),
        tags,
        family if isinstance(family, str) else "",
        _counts(event.get("internal"), limits.MAX_TAGS),
        _counts(event.get("endpoint_counts"), limits.MAX_ENDPOINTS),
    )


def parse_fields(fields: list[tuple[str, str]]) -> Event:
    """Return what the form fields of a version 3 upload say (``tags[]`` once for each tag)."""
    values = dict(fields)
    tags = [value for name, value in fields if name in ("tags[]", "tags", "tags_profiler")]
    return _event(
        _time(values.get("start") or values.get("recording-start"), "start"),
        _time(values.get("end") or values.get("recording-end"), "end"),
        [piece for tag in tags for piece in tag.split(",")],
        values.get("family", ""),
        {},
        {},
    )


def _event(
    start_ns: int,
    end_ns: int,
    raw_tags: list[str],
    family: str,
    counters: dict[str, int],
    endpoints: dict[str, int],
) -> Event:
    tags: dict[str, str] = {}
    lost: dict[str, int] = {}
    for tag in raw_tags[: limits.MAX_TAGS]:
        key, colon, value = tag.strip().partition(":")
        key, value = clean(key, limits.MAX_LABEL_KEY), clean(value, limits.MAX_LABEL_VALUE)
        if key.startswith(_COUNTED):
            if _COUNT.fullmatch(value):
                lost[f"lost.{key.removeprefix(_COUNTED)}"] = int(value)
        elif colon and key and value and key not in _VOLATILE:
            tags[key] = value  # the Go probe repeats keys; the last one counts
    # Go's tracer calls the service after the binary; what the user named is application_name.
    service = tags.get("application_name") or tags.get("service") or family or "unknown"
    if family:
        tags.setdefault("language", clean(family, limits.MAX_LABEL_VALUE))
    return Event(
        start_ns,
        end_ns,
        clean(service, limits.MAX_LABEL_VALUE),
        tuple(sorted(tags.items())),
        {key: n for key, n in counters.items() if not key.startswith("lost.")} | lost,
        endpoints,
    )


def _counts(value: Any, bound: int) -> dict[str, int]:
    if not isinstance(value, dict):
        return {}
    found: dict[str, int] = {}
    for key, count in value.items():
        if isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= 1 << 53:
            found[clean(key, limits.MAX_LABEL_VALUE)] = count
        if len(found) == bound:
            break
    return found


def _time(value: Any, name: str) -> int:
    if value is None or value == "":
        return 0
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise UploadRefusedError(f"{name} is not an RFC 3339 time")
    zone = found[3] or "Z"
    try:
        moment = datetime.fromisoformat(found[1] + ("+00:00" if zone == "Z" else zone))
        seconds = int(moment.astimezone(UTC).timestamp())
    except (ValueError, OverflowError):
        raise UploadRefusedError(f"{name} is not a time") from None
    return seconds * 1_000_000_000 + int((found[2] or "0").ljust(9, "0"))
