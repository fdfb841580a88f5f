"""Uploads to the Blackfire Agent: Datadog's profiling intake, event version 4, over ``requests``.

One POST a window: a multipart body of ``event.json`` and each profile as gzip-compressed pprof.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from conprof_core._process import clean_tag
from conprof_core._version import __version__
from conprof_core.exporters import Destination, EncodedWindow, Outcome, Verdict, naming
from conprof_core.exporters._answers import cause, certificates, judge
from conprof_core.exporters.naming import Measured

if TYPE_CHECKING:
    from conprof_core.exporters._transport import Answer

__all__ = ["INTAKE_PATH", "OLD_AGENT", "BlackfireExporter", "encode_event", "encode_multipart"]

INTAKE_PATH: Final = "/profiling/v1/input"
LOCAL_AGENT: Final = b'"conprof_agent"'
"""In the answer of ``conprof agent``, see docs/agent-api.md."""

OLD_AGENT: Final = "the continuous profiling feature requires Blackfire Agent >= 2.13.0"


class BlackfireExporter:
    """Delivers to the agent at ``unix://``, ``tcp://``, ``http://`` or ``https://``.

    HTTP Basic credentials are sent when both server id and token are known. With ``https`` the
    certificate is checked against ``REQUESTS_CA_BUNDLE`` or ``SSL_CERT_FILE`` if one is set. No
    connection outlives an upload, so nothing is shared with a forked child.
    """

    def __init__(self, destination: Destination) -> None:
        scheme, _, address = destination.agent_socket.partition("://")
        self._unix_path = address if scheme == "unix" else None
        base = "http://localhost" if scheme == "unix" else f"{_web_scheme(scheme)}://{address}"
        self._url = base + INTAKE_PATH
        self._auth: tuple[str, str] | None = None
        if destination.server_id and destination.server_token:
            self._auth = (destination.server_id, destination.server_token)
        self.name = f"Blackfire Agent at {_without_credentials(destination.agent_socket)}"
        self.measure(destination.measured)

    def measure(self, measured: Measured) -> None:
        """Name what is measured from now on; windows that are encoded stay as they are."""
        self._measured = measured
        self.naming = naming.blackfire(measured)

    def export(self, window: EncodedWindow, timeout_s: float) -> Outcome:
        """Try once; never raises for what a network or a server can do."""
        from requests import RequestException

        from conprof_core.exporters._transport import post

        body, content_type = encode_multipart(window)
        headers = {
            "Content-Type": content_type,
            "DD-EVP-ORIGIN": "conprof",
            "DD-EVP-ORIGIN-VERSION": __version__,
            "User-Agent": f"conprof/{__version__}",
        }
        try:
            answer = post(
                self._url,
                body,
                headers,
                timeout_s=timeout_s,
                auth=self._auth,
                unix_path=self._unix_path,
                verify=certificates(),
            )
        except (RequestException, OSError) as error:
            if "malformed" in str(error).lower() or "BadStatusLine" in str(error):
                return Outcome(Verdict.REFUSED, OLD_AGENT)
            return Outcome(Verdict.RETRY, cause(error))
        if answer.status == 200:
            # It may change with the next upload: whoever listens there now is what counts.
            is_local = LOCAL_AGENT in answer.data
            self.naming = naming.blackfire(self._measured, is_local=is_local)
        return self._judge(answer)

    def _judge(self, answer: Answer) -> Outcome:
        if answer.status == 404:
            return Outcome(Verdict.REFUSED, OLD_AGENT)
        hint = "" if self._auth else "; set BLACKFIRE_SERVER_ID and BLACKFIRE_SERVER_TOKEN"
        return judge(answer, f"the agent wants other credentials{hint}")

    def shutdown(self) -> None:
        """Nothing is held between uploads."""


def _web_scheme(scheme: str) -> str:
    return "https" if scheme == "https" else "http"


def _without_credentials(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _time(unix_ns: int) -> str:
    seconds, nanoseconds = divmod(unix_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds:09d}Z"


def encode_tags(tags: Mapping[str, str]) -> str:
    """Return ``key:value,key:value``; a tag without a usable value is left out."""
    pairs = ((clean_tag(key).replace(":", "_"), clean_tag(value)) for key, value in tags.items())
    return ",".join(f"{key}:{value}" for key, value in pairs if key and value)


def encode_event(window: EncodedWindow) -> bytes:
    """Return ``event.json``."""
    import json

    event = {
        "attachments": [f"{profile.name}.pprof" for profile in window.profiles],
        "tags_profiler": encode_tags(window.tags),
        "start": _time(window.start_ns),
        "end": _time(window.end_ns),
        "family": "python",
        "version": "4",
        "endpoint_counts": dict(window.requests) or None,
        "internal": {
            "sample_count": window.samples,
            **dict(sorted(window.counters.items())),
        },
        "info": {"profiler": {"activation": "manual", "settings": {}}},
    }
    return json.dumps(event, ensure_ascii=False).encode("utf-8", "replace")


def encode_multipart(window: EncodedWindow) -> tuple[bytes, str]:
    """Return the body and its ``Content-Type``."""
    boundary = os.urandom(16).hex()
    parts = [("event", "event.json", "application/json", encode_event(window))]
    for profile in window.profiles:
        part = f"{profile.name}.pprof"
        parts.append((part, part, "application/octet-stream", profile.pprof_gz))
    chunks: list[bytes] = []
    for name, filename, content_type, content in parts:
        head = (
            f"--{boundary}\r\n"
            f'Content-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
            f"Content-Type: {content_type}\r\n\r\n"
        )
        chunks += [head.encode("ascii"), content, b"\r\n"]
    chunks.append(f"--{boundary}--\r\n".encode("ascii"))
    return b"".join(chunks), f"multipart/form-data; boundary={boundary}"
