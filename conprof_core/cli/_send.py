"""``conprof doctor --send``: proves each destination end to end, with a profile made for it.

All are tried at once: one that hangs neither hides nor delays what is said of the others.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from conprof_core import exporters
from conprof_core._config import Config
from conprof_core._options import OPTIONS, ProfileType
from conprof_core._profiler import Profiler
from conprof_core.exporters import EncodedWindow, Verdict
from conprof_core.testing import MemoryExporter

__all__ = ["send", "without_password"]

_BURN_S = 0.3
_HELD_BYTES = 4 << 20  # several times the usual distance of two samples of memory
_GRACE_S = 2.0
SERVICE = "conprof-doctor"


def send(config: Config, problems: list[str]) -> list[dict[str, Any]]:
    """Profile this process for a moment and send the result to each destination, once.

    Returns one row for each destination, in the order of ``export_to``: ``url``, ``target``,
    ``delivered``, ``detail``, ``hint``, ``bytes`` and ``seconds``.
    """
    rows: list[dict[str, Any]] = []
    made: list[exporters.Exporter | None] = []
    for destination in config.destinations():
        scheme = destination.url.partition(":")[0].lower()
        row: dict[str, Any] = {"url": without_password(destination.url), "target": scheme}
        row.update(delivered=False, detail="", hint="", bytes=0, seconds=0.0)
        rows.append(row)
        try:
            made.append(exporters.create(destination))
            row["target"] = made[-1].name  # type: ignore[union-attr]
        except Exception as error:
            made.append(None)
            row["detail"] = _text(error)
    try:
        windows = _profile(config, [exporter for exporter in made if exporter is not None])
    except Exception as error:
        for row in rows:
            row["detail"] = row["detail"] or f"no profile could be made: {_text(error)}"
    else:
        _deliver(config, made, windows, rows)
    for row in rows:
        if not row["delivered"]:
            row["hint"] = _hint(row["url"].partition(":")[0].lower(), row["detail"])
            remedy = f"; {row['hint']}" if row["hint"] else ""
            problems.append(f"{row['target']} did not take a profile: {row['detail']}{remedy}")
    return rows


def _deliver(
    config: Config,
    made: list[exporters.Exporter | None],
    windows: list[EncodedWindow],
    rows: list[dict[str, Any]],
) -> None:
    waiting = list(windows)
    threads = []
    for exporter, row in zip(made, rows, strict=True):
        if exporter is not None:
            args = (exporter, waiting.pop(0), config.upload_timeout, row)
            row["detail"] = f"no answer within {config.upload_timeout:g} s"
            threads.append(threading.Thread(target=_attempt, args=args, daemon=True))
    for thread in threads:
        thread.start()
    # An upload is bounded in all but the resolution of a name, and what a disk may do.
    deadline = time.monotonic() + config.upload_timeout + _GRACE_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _attempt(
    exporter: exporters.Exporter, window: EncodedWindow, timeout_s: float, row: dict[str, Any]
) -> None:
    began = time.monotonic()
    result: dict[str, Any] = {"bytes": window.bytes}
    try:
        outcome = exporter.export(window, timeout_s)
        exporter.shutdown()
        is_whole = not getattr(exporter, "rejected", 0)
        result["delivered"] = (
            outcome.verdict is Verdict.DELIVERED and is_whole and bool(window.profiles)
        )
        names = ", ".join(profile.name for profile in window.profiles)
        result["detail"] = outcome.detail or (
            f"{names or 'nothing'} of {window.samples} samples, {window.bytes} bytes, "
            f"as service {window.service}"
        )
    except Exception as error:
        result["detail"] = _text(error)
    result["seconds"] = round(time.monotonic() - began, 3)
    row.update(result)


def _profile(config: Config, destinations: list[exporters.Exporter]) -> list[EncodedWindow]:
    """Return one and the same window under the names of each destination."""
    memories = [MemoryExporter(exporter.naming) for exporter in destinations]
    options = {option.name: getattr(config, option.name) for option in OPTIONS}
    options.update(
        application_name=config.application_name or SERVICE,
        cpu_duration=3_600,
        period=3_600,
        disabled=False,
        enabled=True,
        control_file="",
        control_signal="",
        spool_dir="",
    )
    if not memories:
        return []
    profiler = Profiler(**options, exporters=tuple(memories))
    profiler.start()
    held = [bytes(64 * 1024) for _ in range(_HELD_BYTES // (64 * 1024))]
    until = time.thread_time() + _BURN_S
    while time.thread_time() < until:
        sum(range(1_000))
    if ProfileType.WALL in config.profile_types:
        time.sleep(_BURN_S)
    profiler.stop()
    held.clear()
    return [memory.windows[-1] for memory in memories]


def without_password(url: str) -> str:
    """Return a URL without user and password."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else url


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


_HINTS: dict[str, dict[str, str]] = {
    "blackfire": {
        "no such file": "is the agent installed and running? BLACKFIRE_AGENT_SOCKET says where",
        "refused": "is the agent running? BLACKFIRE_AGENT_SOCKET says where it listens",
        "permission": "add the user of the application to the group of the agent's socket",
        "401": "BLACKFIRE_SERVER_ID and BLACKFIRE_SERVER_TOKEN are sent as HTTP Basic",
    },
    "pyroscope": {
        "refused": "is Pyroscope running at this address? It listens on port 4040 by default",
        "401": "user and password, or API key, stand before the host; a tenant as ?tenant=",
        "404": "is this a Pyroscope 1.0 or newer, and is the prefix right?",
        "pyroscope": "is the prefix of the URL right?",
    },
    "otlp": {
        "refused": "is a receiver running? OTLP over HTTP is port 4318, gRPC is not spoken",
        "rejected": "the receiver took the request and not all of its profiles: see its log",
        "400": "4318 is OTLP over HTTP; 4317 is gRPC, which is not spoken",
        "badstatusline": "4318 is OTLP over HTTP; 4317 is gRPC, which is not spoken",
        "nothing": "no sample was taken, and OTLP has no way to say so",
    },
    "file": {
        "permission": "the user of the application must be able to write there",
        "not a directory": "a file of this name is in the way",
        "file exists": "a file of this name is in the way",
        "space": "the disk is full",
        "read-only": "the file system is mounted read-only",
    },
    "": {
        "certificate": "set REQUESTS_CA_BUNDLE or SSL_CERT_FILE to a bundle that has the issuer",
        "wrong version number": "the other side does not speak TLS: write http, not https",
        "resolution": "the name of the host cannot be resolved here",
        "name or service": "the name of the host cannot be resolved here",
        "no answer within": "it accepts connections and does not answer: overloaded, or a proxy",
        "timed out": "nothing answers: a firewall, or a host that is down",
        "503": "it is there, and overloaded or not ready",
        "429": "it is there, and limits how much it takes",
    },
}


def _hint(scheme: str, detail: str) -> str:
    family = scheme.partition("+")[0]
    lowered = detail.lower()
    for hints in (_HINTS.get(family, {}), _HINTS[""]):
        for word, hint in hints.items():
            if word in lowered:
                return hint
    return ""
