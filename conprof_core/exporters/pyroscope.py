"""Pushes to Grafana Pyroscope: ``push.v1.PusherService/Push`` as Connect unary, over ``requests``.

One series for each profile type, called as Pyroscope's own SDKs call them; one request a window,
unless it is large. The messages are two levels of strings and bytes (grafana/pyroscope,
``api/push/v1/push.proto``), so they are written by hand. Label sets of samples become series in the
server.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from conprof_core._version import __version__
from conprof_core._wire import delimited
from conprof_core.errors import ConfigError
from conprof_core.exporters import Destination, EncodedWindow, Outcome, Verdict, naming
from conprof_core.exporters._answers import cause, certificates, judge
from conprof_core.exporters.naming import Measured

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from conprof_core.exporters import EncodedProfile

__all__ = ["PyroscopeExporter", "Target", "encode_push", "target_of"]

# Each profile of a request is weighed by itself against a bucket of 2 MiB: of a larger request a
# part is taken and a part is not, and what was taken would be taken again with the next attempt.
_REQUEST_BYTES: Final = 1_500_000
_PUSH_PATH: Final = "/push.v1.PusherService/Push"
_FORM: Final = (
    "a Pyroscope server is written pyroscope+https://[user:password@]host[/prefix][?tenant=…]"
)
# Limits of a server by default (pkg/validation): 30 names a series, of 1024 and 2048 bytes. The
# labels of a sample count among the 30, and one name too many refuses the whole series.
_MAX_LABELS: Final = 20
_MAX_LABEL_NAME: Final = 1_024
_MAX_LABEL_VALUE: Final = 2_048
# Tags: every message of the request has two length-delimited fields.
_FIRST: Final = b"\x0a"
_SECOND: Final = b"\x12"
# What describes one process or one window would make a series of each.
_PER_PROCESS: Final = frozenset(
    {
        "service",
        "application_name",
        "language",
        "runtime",
        "runtime-id",
        "process_id",
        "profile_seq",
    }
    | {"runtime_os", "runtime_arch", "runtime_version", "probe_version", "engine"}
)


class Target(NamedTuple):
    """Where a URL leads.

    Attributes:
        url: address of the service, without credentials.
        auth: user and password, if the URL names them.
        tenant: for ``X-Scope-OrgID``; empty leaves the header out.
        shown: the address for people.
    """

    url: str
    auth: tuple[str, str] | None
    tenant: str
    shown: str


def target_of(url: str, option: str = "export_to") -> Target:
    """Return what a ``pyroscope+http(s):`` URL says.

    Raises:
        ConfigError: it names no host, or says what is not understood.
    """
    from urllib.parse import parse_qsl, unquote, urlsplit

    shown = f"{url.partition('://')[0]}://{url.partition('://')[2].rpartition('@')[2]}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError(option, shown, _FORM) from None
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if not parts.hostname or parts.fragment or set(query) - {"tenant"}:
        raise ConfigError(option, shown, _FORM)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    base = f"{parts.scheme.partition('+')[2]}://{host}{f':{port}' if port else ''}"
    auth = None
    if parts.username is not None:
        auth = (unquote(parts.username), unquote(parts.password or ""))
    address = base + parts.path.rstrip("/")
    return Target(address + _PUSH_PATH, auth, query.get("tenant", ""), address)


class PyroscopeExporter:
    """Delivers to a Pyroscope server, or to Grafana Cloud with user and API key in the URL."""

    def __init__(self, destination: Destination) -> None:
        self._target = target_of(destination.url)
        self.name = f"Pyroscope at {self._target.shown}"
        self.measure(destination.measured)
        # Of the window that is to be tried again: which it is, and how many profiles were taken.
        self._resumed: tuple[tuple[int, int, int], int] | None = None

    def measure(self, measured: Measured) -> None:
        """Name what is measured from now on; windows that are encoded stay as they are."""
        self.naming = naming.pyroscope(measured)

    def export(self, window: EncodedWindow, timeout_s: float) -> Outcome:
        """Try once; never raises for what a network or a server can do.

        A window that was taken in part goes on, in the next attempt, where it stopped.
        """
        deadline = time.monotonic() + timeout_s
        identity = (window.process_id, window.sequence, window.start_ns)
        done = 0
        if self._resumed is not None and self._resumed[0] == identity:
            done = self._resumed[1]
        self._resumed = None
        refused = None
        for profiles in _requests(window.profiles[done:]):
            outcome = self._push(window, profiles, max(0.001, deadline - time.monotonic()))
            if outcome.verdict is Verdict.RETRY:
                self._resumed = (identity, done)
                return outcome
            if outcome.verdict is Verdict.REFUSED:
                refused = refused or outcome
            done += len(profiles)
        return refused or Outcome(Verdict.DELIVERED)

    def _push(
        self, window: EncodedWindow, profiles: Sequence[EncodedProfile], timeout_s: float
    ) -> Outcome:
        from requests import RequestException

        from conprof_core.exporters._transport import post

        headers = {
            "Content-Type": "application/proto",
            "Connect-Protocol-Version": "1",
            "User-Agent": f"conprof/{__version__}",
        }
        if self._target.tenant:
            headers["X-Scope-OrgID"] = self._target.tenant
        try:
            answer = post(
                self._target.url,
                encode_push(window, profiles),
                headers,
                timeout_s=timeout_s,
                auth=self._target.auth,
                unix_path=None,
                verify=certificates(),
            )
        except (RequestException, OSError) as error:
            return Outcome(Verdict.RETRY, cause(error))
        if answer.status == 404:
            return Outcome(Verdict.REFUSED, "there is no Pyroscope (1.0 or newer) at this address")
        missing = "" if self._target.auth else "; write user:password@ before the host"
        return judge(answer, f"the server wants other credentials, or a tenant{missing}")

    def shutdown(self) -> None:
        """Nothing is held between uploads."""


def _labels(window: EncodedWindow, series: str) -> dict[str, str]:
    """Return the labels of one series: what all samples of a service share, and what users add."""
    labels = {
        "__name__": series,
        "service_name": window.service,
        # Version 1 of the storage takes allocations for sums since the start of the process, and
        # subtracts what came before, unless told that they are of this window.
        "__delta__": "false",
        "otel.scope.name": "conprof",
        "otel.scope.version": __version__,
    }
    for key, value in window.tags.items():
        if key in _PER_PROCESS or key.startswith(("conprof_lost_", "__")):
            continue
        labels.setdefault("hostname" if key == "host" else key, value)
    usable = ((key[:_MAX_LABEL_NAME], _cut(value)) for key, value in labels.items() if value)
    return dict(list(usable)[:_MAX_LABELS])


def _cut(value: str) -> str:
    encoded = value.encode("utf-8", "replace")[:_MAX_LABEL_VALUE]
    return encoded.decode("utf-8", "ignore")


def _requests(profiles: Sequence[EncodedProfile]) -> Iterable[Sequence[EncodedProfile]]:
    """Part the profiles of a window, in order, into what one request holds."""
    first = size = 0
    for index, profile in enumerate(profiles):
        # The last four bytes of a gzip are the size of its content (RFC 1952).
        more = int.from_bytes(profile.pprof_gz[-4:], "little")
        if index > first and size + more > _REQUEST_BYTES:
            yield profiles[first:index]
            first, size = index, 0
        size += more
    if profiles:
        yield profiles[first:]


def encode_push(window: EncodedWindow, profiles: Sequence[EncodedProfile] | None = None) -> bytes:
    """Return a ``PushRequest``: series, each with its labels and one profile, by default all."""
    series = []
    for profile in window.profiles if profiles is None else profiles:
        labels = b"".join(_label_pairs(_labels(window, profile.name)))
        sample = delimited(_FIRST, profile.pprof_gz) + delimited(_SECOND, _uuid().encode("ascii"))
        series.append(delimited(_FIRST, labels + delimited(_SECOND, sample)))
    return b"".join(series)


def _label_pairs(labels: dict[str, str]) -> Iterable[bytes]:
    for key, value in sorted(labels.items()):
        name = delimited(_FIRST, key.encode("utf-8", "replace"))
        yield delimited(_FIRST, name + delimited(_SECOND, value.encode("utf-8", "replace")))


def _uuid() -> str:
    """Return a random UUID (RFC 9562, version 4)."""
    raw = bytearray(os.urandom(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
