"""What may change while a profiler runs, and what a control signal may be called.

``_controls`` brings changes about, whoever asks for them: ``reconfigure()``, a signal, or a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from conprof_core.errors import ConfigError

__all__ = ["CHANGEABLE", "parse_changes", "parse_signal"]

CHANGEABLE: Final = ("enabled", "cpu_profile_rate", "profile_types", "period", "cpu_duration")
"""Options that can change while a profiler runs."""

_SIGNALS: Final = ("SIGUSR1", "SIGUSR2", "SIGHUP")


def parse_changes(given: Mapping[str, object]) -> dict[str, Any]:
    """Return the changes that a mapping asks for; ``None`` means "not given".

    ``disabled`` is understood as the opposite of ``enabled``: who is in a hurry shall not have to
    look it up.

    Raises:
        ConfigError: an option cannot be changed while a profiler runs, or not to this value.
    """
    from conprof_core._options import OPTION_NAMED

    changes: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        if name == "disabled":
            name, value = "enabled", not OPTION_NAMED[name].parse(name, value)
            if changes.get(name, value) != value:
                raise ConfigError("disabled", not value, "enabled says the opposite")
        if name not in CHANGEABLE:
            allowed = f"while a profiler runs, these can change: {', '.join(CHANGEABLE)}"
            raise ConfigError(str(name)[:100], value, allowed)
        parsed = OPTION_NAMED[name].parse(name, value)
        if name == "enabled" and changes.get(name, parsed) != parsed:
            raise ConfigError(name, value, "disabled says the opposite")
        changes[name] = parsed
    return changes


def parse_signal(option: str, value: object) -> str:
    """Return the full name of a signal, or an empty string for none."""
    allowed = f"allowed is one of {', '.join(_SIGNALS)}"
    if value is None or value == "":
        return ""
    if not isinstance(value, str):
        raise ConfigError(option, value, allowed)
    name = value.strip().upper()
    name = name if name.startswith("SIG") else f"SIG{name}"
    if name not in _SIGNALS:
        raise ConfigError(option, value, allowed)
    import signal

    if not hasattr(signal, name):
        raise ConfigError(option, value, "this system has no such signal; use control_file")
    return name
