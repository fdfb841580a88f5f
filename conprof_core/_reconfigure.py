"""Changes while a profiler runs, for programs and for what listens to the network.

The same can be had by a signal and by a file: ``docs/runtime-control.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from conprof_core._control import parse_changes
from conprof_core._profiler import change, stats
from conprof_core.errors import ConfigError, ConprofError

__all__ = ["ControlResult", "apply_control", "reconfigure"]

_BUSY = "the profiler is busy, as in a signal handler that interrupted it; nothing was changed"


class ControlResult(NamedTuple):
    """What became of a request to ``apply_control``.

    Attributes:
        is_applied: whether a running profiler does now what was asked for.
        is_refused: whether what was asked for cannot be done at any time: a value is wrong.
        error: why not, in one line; empty otherwise.
        state: what holds now, as ``stats()["control"]``; empty when no profiler runs.
    """

    is_applied: bool
    is_refused: bool
    error: str
    state: dict[str, Any]


def reconfigure(
    *,
    enabled: bool | None = None,
    cpu_profile_rate: int | None = None,
    profile_types: object = None,
    period: float | None = None,
    cpu_duration: float | None = None,
) -> dict[str, Any]:
    """Change what the running profiler of this process does, without a restart.

    The window ends, and the next one begins with the new values: process, queues and counters stay.
    Other processes, forked before, are not reached; later children begin as their parent stands.
    With ``enabled=False`` no sample is taken, no timer and no signal is left, and what waits to be
    sent still is.

    Safe to call from any thread; not from a signal handler, where ``control_signal`` belongs. Does
    nothing, and says so with an empty state, when no profiler runs, as with ``CONPROF_DISABLED``.

    Args:
        enabled: whether to profile.
        cpu_profile_rate: samples per second of CPU time.
        profile_types: what is measured. With ``HEAP`` or ``WALL`` coming or going the engine begins
            anew: live memory is then told from there on.
        period: seconds from one upload to the next.
        cpu_duration: seconds of each period in which samples are taken.

    Returns:
        What holds now, as ``stats()["control"]``.

    Raises:
        ConfigError: a value cannot be used; nothing was changed.
        ConprofError: the profiler was busy for five seconds; nothing was changed.
    """
    changes = parse_changes(
        {
            "enabled": enabled,
            "cpu_profile_rate": cpu_profile_rate,
            "profile_types": profile_types,
            "period": period,
            "cpu_duration": cpu_duration,
        }
    )
    if not change(lambda _: changes, "reconfigure()") and _state():
        raise ConprofError(_BUSY)
    return _state()


def apply_control(request: Mapping[str, object], source: str = "request") -> ControlResult:
    """Do what a request asks for, as from an HTTP endpoint. Any thread; never raises.

    Who may ask is for the caller to decide: nothing is checked here but the values.

    Args:
        request: options that can change, by name; values may be text, as in a query string.
        source: who asked, for ``stats()``.
    """
    error = ""
    is_applied = is_refused = False
    try:
        changes = parse_changes(request)
        is_applied = change(lambda _: changes, source)
        if not is_applied:
            error = _BUSY if _state() else "no profiler runs in this process"
    except ConfigError as wrong:
        is_refused = True
        error = str(wrong)
    except Exception as unexpected:
        error = f"{type(unexpected).__name__}: {unexpected}"
    return ControlResult(is_applied, is_refused, error, _state())


def _state() -> dict[str, Any]:
    state: dict[str, Any] = stats().get("control", {})
    return state
