"""Names on the wire → our own: sample types and labels of every probe, in one place.

Own names are what queries, links and the viewer use, so that a Go service, a ddtrace service and
one of ours can be looked at in the same way. The original is remembered beside it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from conprof_core.agent import limits
from conprof_core.agent.text import clean

__all__ = ["ProfileType", "label_key", "profile_type", "rank", "route_key"]

route_key: Final = "http.route"


@dataclass(frozen=True, slots=True)
class ProfileType:
    """One kind of profile.

    Attributes:
        name: own name, such as ``cpu``.
        unit: ``nanoseconds``, ``bytes``, ``count`` or what the probe said.
        original: name on the wire.
        instant: the value is a state, as live heap is: windows of a process are averaged, where
            those of any other type are added.
    """

    name: str
    unit: str
    original: str
    instant: bool


# Wire name → own name. Sources: DataDog/libdatadog sample_type.rs, golang/go runtime/pprof.
_TYPES: Final = {
    "cpu": "cpu",
    "cpu-time": "cpu",
    "samples": "cpu_samples",
    "cpu-samples": "cpu_samples",
    "wall": "wall",
    "wall-time": "wall",
    "wall-samples": "wall_samples",
    "alloc-space": "alloc_space",
    "alloc_space": "alloc_space",
    "alloc-samples": "alloc_objects",
    "alloc_objects": "alloc_objects",
    "heap-space": "heap_space",
    "inuse_space": "heap_space",
    "inuse-space": "heap_space",
    "heap-live-samples": "heap_objects",
    "inuse_objects": "heap_objects",
    "inuse-objects": "heap_objects",
    "lock-acquire-wait": "lock_wait",
    "lock-wait": "lock_wait",
    "lock-acquire": "lock_acquires",
    "lock-release-hold": "lock_hold",
    "lock-release": "lock_releases",
    "exception-samples": "exceptions",
    "goroutine": "goroutines",
    "goroutineleak": "leaked_goroutines",
    "tasks": "tasks",
}
_INSTANT: Final = frozenset(
    {"heap_space", "heap_objects", "goroutines", "leaked_goroutines", "tasks"}
)
# What a viewer offers first.
_ORDER: Final = (
    "cpu",
    "wall",
    "gil_wait",
    "lock_wait",
    "loop_blocked",
    "gc_pause",
    "alloc_space",
    "alloc_objects",
    "heap_space",
    "heap_objects",
    "goroutines",
    "tasks",
    "exceptions",
)
_UNSAFE: Final = re.compile(r"[^a-z0-9_]+")

_LABELS: Final = {
    "trace endpoint": route_key,
    "thread name": "thread",
    "task name": "task",
    "exception type": "exception.type",
    "class name": "class",
    "lock name": "lock",
    "trace type": "trace.type",
}
# Values that never repeat: each would split every merge and grow the store without bound.
_DROPPED: Final = frozenset(
    {
        "span id",
        "local root span id",
        "thread id",
        "thread native id",
        "task id",
        "origin task id",
        "origin task name",
        "end_timestamp_ns",
        "exception message",
    }
)
_NUMBERED_TASK: Final = re.compile(r"Task-\d+")


def profile_type(original: str, unit: str, part: str) -> ProfileType:
    """Return the own name of a sample type; ``part`` tells Go's mutex profile from block."""
    name = _TYPES.get(original)
    if name is None:
        name = _UNSAFE.sub("_", original.lower()).strip("_")[: limits.MAX_LABEL_KEY] or "other"
        if original in ("contentions", "delay"):
            name = f"{'mutex' if 'mutex' in part else 'block'}_{name}"
    return ProfileType(name, unit, original, name in _INSTANT)


def rank(name: str) -> tuple[int, str]:
    """Return the place of a type among others; counts beside a measure come last."""
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER), name)


def label_key(key: str, value: str) -> str:
    """Return the own key of a label, empty when it is not kept."""
    if key in _DROPPED or (key == "task name" and _NUMBERED_TASK.fullmatch(value)):
        return ""
    return clean(_LABELS.get(key, key), limits.MAX_LABEL_KEY)
