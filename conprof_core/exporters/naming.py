"""Names on the wire, in one place: one ``Naming`` for each family of destinations.

The core speaks of samples, CPU nanoseconds and its own label keys; what these are called elsewhere
is decided here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["Naming", "blackfire", "go"]


@dataclass(frozen=True)
class Naming:
    """How one family of destinations names what a profile holds.

    Attributes:
        sample_types: (type, unit, column) in wire order; column is ``samples`` or ``cpu_ns``.
        period_type: (type, unit).
        period: quantity between samples in the unit of ``period_type``.
        default_sample_type: type that a viewer shows first.
        label_names: label key of the core → key on the wire; others are unchanged.
        thread_label: key of the thread's name; ``None`` leaves threads out, and rows merge.
    """

    sample_types: tuple[tuple[str, str, str], ...]
    period_type: tuple[str, str]
    period: int
    default_sample_type: str
    label_names: Mapping[str, str] = field(hash=False)
    thread_label: str | None


def blackfire(rate_hz: int) -> Naming:
    """Return what the Blackfire back end gets from Python today: the names of ddtrace's profiler.

    That includes a period of 1, whatever the rate is (DataDog/dd-trace-py, ``profile.cpp``).
    """
    del rate_hz
    return Naming(
        sample_types=(("cpu-time", "nanoseconds", "cpu_ns"), ("cpu-samples", "count", "samples")),
        period_type=("cpu-time", "nanoseconds"),
        period=1,
        default_sample_type="cpu-time",
        label_names=MappingProxyType({"http.route": "trace endpoint"}),
        thread_label="thread name",
    )


def go(rate_hz: int) -> Naming:
    """Return the names of Go's CPU profile, which every pprof tool knows."""
    return Naming(
        sample_types=(("samples", "count", "samples"), ("cpu", "nanoseconds", "cpu_ns")),
        period_type=("cpu", "nanoseconds"),
        period=1_000_000_000 // rate_hz,
        default_sample_type="cpu",
        label_names=MappingProxyType({}),
        thread_label="thread",
    )
