"""Exporters hand encoded windows to a destination; the scheme of a URL picks the exporter.

They receive bytes and metadata, never the engine or its windows. ``SCHEMES`` is the one registry; a
module is imported only when its scheme is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from importlib import import_module
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol, cast

from conprof_core.errors import ConfigError
from conprof_core.exporters.naming import Measured, Naming

__all__ = [
    "SCHEMES",
    "Destination",
    "EncodedProfile",
    "EncodedWindow",
    "Exporter",
    "Outcome",
    "Verdict",
    "check_url",
    "create",
]

SCHEMES: Final[Mapping[str, tuple[str, str]]] = {
    "blackfire": ("conprof_core.exporters.blackfire", "BlackfireExporter"),
    "file": ("conprof_core.exporters.file", "FileExporter"),
    "otlp": ("conprof_core.exporters.otlp", "OTLPExporter"),
    "otlp+http": ("conprof_core.exporters.otlp", "OTLPExporter"),
    "otlp+https": ("conprof_core.exporters.otlp", "OTLPExporter"),
    "pyroscope+http": ("conprof_core.exporters.pyroscope", "PyroscopeExporter"),
    "pyroscope+https": ("conprof_core.exporters.pyroscope", "PyroscopeExporter"),
}
"""Scheme → module and class. A class is called with a ``Destination``."""


class Destination(NamedTuple):
    """What an exporter is made from.

    Attributes:
        url: the URL of ``export_to``.
        measured: what is measured, which names and periods depend on.
        agent_socket: where ``blackfire:`` uploads go.
        server_id, server_token: credentials; both or neither are used.
    """

    url: str
    measured: Measured
    agent_socket: str
    server_id: str | None = None
    server_token: str | None = None

    def __repr__(self) -> str:
        return f"Destination({self.url!r}, {self.measured!r}, {self.agent_socket!r})"


class EncodedProfile(NamedTuple):
    """One profile of a window.

    Attributes:
        name: what its ``Shape`` is called; ``otlp`` for an OTLP request.
        pprof_gz: gzip-compressed pprof, or such a request.
    """

    name: str
    pprof_gz: bytes

    def __repr__(self) -> str:
        return f"EncodedProfile({self.name!r}, {len(self.pprof_gz)} bytes)"


_NO_REQUESTS: Final[Mapping[str, int]] = MappingProxyType({})


class EncodedWindow(NamedTuple):
    """One window of one process, encoded: the unit that is exported. Immutable.

    Attributes:
        profiles: what the window became under the exporter's ``Naming``.
        start_ns, end_ns: span of the window in unix nanoseconds.
        sequence: number of the window in this process, from 0.
        service: name of the service.
        tags: what describes the process and the window, in upload order.
        counters: what was lost, carried or truncated in the window, by reason.
        process_id: the process that was profiled.
        samples: number of CPU samples in it.
        requests: route → requests that ended in the window.
    """

    profiles: tuple[EncodedProfile, ...]
    start_ns: int
    end_ns: int
    sequence: int
    service: str
    tags: Mapping[str, str]
    counters: Mapping[str, int]
    process_id: int = 0
    samples: int = 0
    requests: Mapping[str, int] = _NO_REQUESTS

    @property
    def bytes(self) -> int:
        """Return the size of all profiles."""
        return sum(len(profile.pprof_gz) for profile in self.profiles)


class Verdict(Enum):
    """What became of an attempt to export."""

    DELIVERED = "delivered"
    RETRY = "retry"  # the destination is away or asks for patience: the same bytes may work later
    REFUSED = "refused"  # it is there and will never take this profile


class Outcome(NamedTuple):
    """Result of one attempt.

    Attributes:
        verdict: what became of it.
        detail: what a person needs to know, in one line; empty when all of it was delivered.
        retry_after_s: the destination's own wish, if it named one.
        counts: whether the attempt counts against this profile, as when the destination answers
            but fails on it; an unreachable destination does not.
    """

    verdict: Verdict
    detail: str = ""
    retry_after_s: float | None = None
    counts: bool = False


class Exporter(Protocol):
    """Delivers encoded windows to one destination. Used by one thread at a time.

    Nothing is opened before the first ``export()``, so an exporter may be made before a fork.

    One that also has a method ``measure(measured: Measured)`` is told when what is measured changes
    while the profiler runs, and sets ``naming`` anew; without it the names stay as they were.
    """

    name: str  # for people: the destination without credentials
    naming: Naming

    def export(self, window: EncodedWindow, timeout_s: float) -> Outcome:
        """Try once to deliver ``window`` within ``timeout_s`` seconds in all. May raise."""
        ...

    def shutdown(self) -> None:
        """Release what is held; harmless when called twice."""
        ...


def _scheme(url: str) -> str:
    scheme, separator, _ = url.partition(":")
    return scheme.lower() if separator else ""


def check_url(option: str, url: str) -> None:
    """Raise ``ConfigError`` if no exporter takes this URL."""
    if _scheme(url) not in SCHEMES:
        known = ", ".join(f"{scheme}:" for scheme in SCHEMES)
        raise ConfigError(
            option, url, f"there is no exporter for this URL; the schemes are {known}"
        )
    if _scheme(url) == "file":
        from conprof_core.exporters.file import directory_of

        directory_of(url, option)
    elif _scheme(url).startswith("pyroscope+"):
        from conprof_core.exporters.pyroscope import target_of

        target_of(url, option)
    elif _scheme(url).startswith("otlp"):
        from conprof_core.exporters import otlp

        otlp.target_of(url, option)


def create(destination: Destination) -> Exporter:
    """Return the exporter for a URL that ``check_url`` let pass."""
    module, name = SCHEMES[_scheme(destination.url)]
    return cast("Exporter", getattr(import_module(module), name)(destination))
