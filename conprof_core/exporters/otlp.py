"""Sends OTLP profiles over HTTP: to an OpenTelemetry Collector, or to what takes them directly.

One POST a window, and one more for its tasks: ``ExportProfilesServiceRequest`` as protobuf with
gzip, over ``requests``. The signal is in development and so is its path (opentelemetry-proto
``profiles/v1development``).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from conprof_core import _log
from conprof_core._otel import parse_pairs, resource_attributes
from conprof_core._version import __version__
from conprof_core.errors import ConfigError
from conprof_core.exporters import Destination, EncodedWindow, Outcome, Verdict, naming
from conprof_core.exporters._answers import cause, certificates, judge
from conprof_core.exporters.naming import Measured

__all__ = ["OTLPExporter", "Target", "target_of"]

_PATH: Final = "/v1development/profiles"
_DEFAULT_BASE: Final = "http://localhost:4318"
_FORM: Final = (
    "an OTLP receiver is written otlp+https://[user:password@]host[:port][/prefix], or otlp: for "
    "what the OTEL_EXPORTER_OTLP_* variables say"
)
# opentelemetry-proto docs/specification.md: all else must not be tried again.
_RETRIED: Final = frozenset({429, 502, 503, 504})


class Target(NamedTuple):
    """Where a URL leads.

    Attributes:
        url: address of the signal, without credentials.
        headers: further headers, with what the URL or the environment says of credentials.
        shown: the address for people.
    """

    url: str
    headers: Mapping[str, str]
    shown: str

    def __repr__(self) -> str:
        return f"Target({self.url!r}, headers: {', '.join(self.headers)})"


def target_of(url: str, option: str = "export_to") -> Target:
    """Return what an ``otlp+http(s):`` URL says, or the environment for ``otlp:``.

    Variables of the profiles signal stand before those of all signals. The latter's headers, which
    hold the credentials of one vendor, go only where ``OTEL_EXPORTER_OTLP_ENDPOINT`` points.

    Raises:
        ConfigError: there is no usable address.
    """
    scheme, _, rest = url.partition(":")
    if scheme.lower() != "otlp":
        return _target(url, scheme.lower().partition("+")[2] + ":" + rest, True, option, False)
    if rest.strip("/"):
        raise ConfigError(option, _hidden(url), _FORM)
    own = _variable("OTEL_EXPORTER_OTLP_PROFILES_ENDPOINT")
    general = _variable("OTEL_EXPORTER_OTLP_ENDPOINT")
    if own:
        return _target(own, own, False, "OTEL_EXPORTER_OTLP_PROFILES_ENDPOINT", True)
    protocol = _variable("OTEL_EXPORTER_OTLP_PROFILES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    if general and protocol == "grpc":
        raise ConfigError(
            option,
            url,
            "OTEL_EXPORTER_OTLP_ENDPOINT is for gRPC, and conprof speaks HTTP: name the receiver's "
            "HTTP port, as in otlp+http://host:4318",
        )
    named = "OTEL_EXPORTER_OTLP_ENDPOINT" if general else option
    return _target(general or _DEFAULT_BASE, general or _DEFAULT_BASE, True, named, True)


def _target(given: str, url: str, is_base: bool, option: str, all_headers: bool) -> Target:
    from urllib.parse import unquote, urlsplit

    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError(option, _hidden(given), _FORM) from None
    usable = parts.scheme in ("http", "https") and parts.hostname
    if not usable or parts.query or parts.fragment:
        raise ConfigError(option, _hidden(given), _FORM)
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else str(parts.hostname)
    base = f"{parts.scheme}://{host}{f':{port}' if port else ''}"
    address = base + parts.path.rstrip("/")
    if is_base and not address.endswith(_PATH):
        address += _PATH
    variables = ["OTEL_EXPORTER_OTLP_PROFILES_HEADERS"]
    if all_headers:
        variables.append("OTEL_EXPORTER_OTLP_HEADERS")
    headers, _ = parse_pairs(_variable(*variables))
    if parts.username is not None:
        from base64 import b64encode

        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        headers = {key: text for key, text in headers.items() if key.lower() != "authorization"}
        headers["Authorization"] = f"Basic {b64encode(user).decode('ascii')}"
    return Target(address, headers, address.removesuffix(_PATH))


def _variable(*names: str) -> str:
    """Return the first of these variables that is set; an empty one counts as not set."""
    return next((text for name in names if (text := os.environ.get(name, "").strip())), "")


def _hidden(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


class OTLPExporter:
    """Delivers to an OTLP receiver over HTTP."""

    def __init__(self, destination: Destination) -> None:
        self._target = target_of(destination.url)
        self._verify = _variable(
            "OTEL_EXPORTER_OTLP_PROFILES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"
        )
        self._remark = ""
        self._window: tuple[int, int, int] | None = None
        self._taken = 0  # requests of that window
        self.rejected = 0
        self.name = f"OTLP receiver at {self._target.shown}"
        attributes = {
            "process.runtime.name": sys.implementation.name,
            "telemetry.sdk.language": "python",
            "telemetry.sdk.name": "conprof",
            "telemetry.sdk.version": __version__,
            **resource_attributes(),
        }
        self._attributes = tuple(attributes.items())
        self.measure(destination.measured)

    def measure(self, measured: Measured) -> None:
        """Name what is measured from now on; windows that are encoded stay as they are."""
        self.naming = naming.otlp(measured, self._attributes)

    def export(self, window: EncodedWindow, timeout_s: float) -> Outcome:
        """Try once; never raises for what a network or a server can do.

        A window without a sample has no request: OTLP has no way to say that nothing was measured.
        What was taken of a window is not sent again when it is tried again.
        """
        window_id = (window.process_id, window.start_ns, window.sequence)
        if window_id != self._window:
            self._window, self._taken = window_id, 0
        deadline = time.monotonic() + timeout_s
        outcome = Outcome(Verdict.DELIVERED)
        for profile in window.profiles[self._taken :]:
            outcome = self._send(profile.pprof_gz, max(0.001, deadline - time.monotonic()))
            if outcome.verdict is not Verdict.DELIVERED:
                break
            self._taken += 1
        return outcome

    def _send(self, request: bytes, timeout_s: float) -> Outcome:
        from requests import RequestException

        from conprof_core.exporters._transport import post

        try:
            answer = post(
                self._target.url,
                request,
                {
                    "User-Agent": f"conprof/{__version__}",
                    **self._target.headers,
                    "Content-Type": "application/x-protobuf",
                    "Content-Encoding": "gzip",
                },
                timeout_s=timeout_s,
                verify=self._verify or certificates(),
            )
        except (RequestException, OSError) as error:
            return Outcome(Verdict.RETRY, cause(error))
        if answer.status == 404:
            return Outcome(
                Verdict.REFUSED,
                "no OTLP receiver takes profiles at this address; a Collector needs "
                "--feature-gates=service.profilesSupport and a pipeline for profiles",
            )
        if 200 <= answer.status < 300:
            return self._accepted(answer.data)
        answer.data = _status_message(answer.data)
        outcome = judge(answer, "the receiver wants other credentials (OTEL_EXPORTER_OTLP_HEADERS)")
        if outcome.verdict is Verdict.RETRY and answer.status not in _RETRIED:
            return Outcome(Verdict.REFUSED, outcome.detail)
        return outcome

    def _accepted(self, body: bytes) -> Outcome:
        """Read the partial success that an answer may hold; it is never tried again."""
        partial = dict(_fields(dict(_fields(body)).get(1, b"")))
        rejected, message = partial.get(1, 0), partial.get(2, b"")
        text = message.decode("utf-8", "replace")[:200] if isinstance(message, bytes) else ""
        count = rejected if isinstance(rejected, int) else 0
        self.rejected += count
        if not count and not text:
            return Outcome(Verdict.DELIVERED)
        remark = f"{count} profiles were rejected: {text}" if count else text
        if remark != self._remark:
            self._remark = remark
            level = _log.ERROR if count else _log.WARNING
            _log.log(level, "export", "%s took a window in part: %s", self.name, remark)
        return Outcome(Verdict.DELIVERED, remark)

    def shutdown(self) -> None:
        """Nothing is held between uploads."""


def _status_message(body: bytes) -> bytes:
    """Return the message of a ``google.rpc.Status``, or a body that is none as it is."""
    message = dict(_fields(body)).get(2)
    return message if isinstance(message, bytes) else body


def _fields(message: object) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of the fields of a protobuf message, as far as it is one."""
    if not isinstance(message, bytes):
        return
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            value |= (message[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if message[at - 1] < 0x80:
                return value

    try:
        while at < len(message):
            key = varint()
            value: int | bytes = varint()
            if key & 7 == 2:
                value = message[at : at + int(value)]
                at += len(value)
            elif key & 7:
                return
            yield key >> 3, value
    except IndexError:
        return
