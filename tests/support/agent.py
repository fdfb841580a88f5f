"""Uploads in every probe's shape, made here and not by the product, and an agent to send them to."""

# ruff: noqa: E501 - commands
from __future__ import annotations

import gzip
import http.client
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

BOUNDARY = "between-the-parts"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"
INPUT = "/profiling/v1/input"

# root first: (function, file, line)
Frames = Sequence[tuple[str, str, int]]


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def message(field: int, payload: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(payload)) + payload


def pprof(
    types: Sequence[tuple[str, str]],
    samples: Sequence[tuple[Frames, Mapping[str, str], Sequence[int]]],
) -> bytes:
    """Return a raw profile, samples before the types, as libdatadog writes it."""
    strings = [""]
    functions: dict[tuple[str, str], int] = {}
    locations: dict[tuple[str, str, int], int] = {}

    def text(value: str) -> int:
        if value not in strings:
            strings.append(value)
        return strings.index(value)

    body = b""
    for frames, labels, values in samples:
        ids = b"".join(
            varint(locations.setdefault(tuple(frame), len(locations) + 1))  # type: ignore[arg-type]
            for frame in reversed(frames)
        )
        sample = message(1, ids) + message(2, b"".join(varint(value) for value in values))
        for key, value in labels.items():
            sample += message(3, number(1, text(key)) + number(2, text(value)))
        sample += message(3, number(1, text("thread id")) + number(3, 4711))
        body += message(2, sample)
    for name, unit in types:
        body += message(1, number(1, text(name)) + number(2, text(unit)))
    for (name, file, line), identity in locations.items():
        function = functions.setdefault((name, file), len(functions) + 1)
        body += message(4, number(1, identity) + message(4, number(1, function) + number(2, line)))
    for (name, file), identity in functions.items():
        body += message(5, number(1, identity) + number(2, text(name)) + number(4, text(file)))
    return body + b"".join(message(6, value.encode()) for value in strings)


def rfc3339(seconds: float) -> str:
    whole = int(seconds)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{stamp}.{int((seconds - whole) * 1e9):09d}Z"


def event(end: float, *, seconds: float = 10, **changes: Any) -> bytes:
    content = {
        "attachments": ["profile.pprof"],
        "tags_profiler": "service:shop,runtime-id:r1,process_id:7,host:web-1,profile_seq:3",
        "start": rfc3339(end - seconds),
        "end": rfc3339(end),
        "family": "python",
        "version": "4",
    }
    return json.dumps(content | changes).encode()


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    disposition = f'form-data; name="{name}"'
    if filename is not None:
        disposition += f'; filename="{filename}"'
    return f"Content-Disposition: {disposition}\r\n\r\n".encode() + content


def multipart(*parts: bytes) -> bytes:
    line = f"--{BOUNDARY}".encode()
    return b"".join(line + b"\r\n" + each + b"\r\n" for each in parts) + line + b"--\r\n"


CPU = (("cpu-time", "nanoseconds"), ("cpu-samples", "count"))
MAIN = ("main", "/srv/shop/app.py", 10)
HOT = ("hot", "/srv/shop/views.py", 20)
COLD = ("cold", "/usr/lib/python3.12/site-packages/django/db/query.py", 30)


def samples(route: str = "/cart/<int:id>", cpu_ms: int = 70) -> list[Any]:
    """Return two stacks: ``hot`` of the route, and 30 ms of ``cold`` with another."""
    return [
        ([MAIN, HOT], {"trace endpoint": route, "thread name": "worker"}, [cpu_ms * 1_000_000, 7]),
        ([MAIN, COLD], {"trace endpoint": "/", "thread name": "worker"}, [30_000_000, 3]),
    ]


def upload(end: float | None = None, *, content: Any = None, **changes: Any) -> bytes:
    """Return the body of a plain upload, as our own probe sends it."""
    profile = gzip.compress(pprof(CPU, samples() if content is None else content), mtime=0)
    return multipart(
        part("event", event(time.time() if end is None else end, **changes), "event.json"),
        part("profile.pprof", profile, "profile.pprof"),
    )


class Agent:
    """A real ``conprof agent`` in a process of its own, on a free port of loopback."""

    def __init__(self, data: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "conprof_core.cli.main",
                "agent",
                "--listen=127.0.0.1:0",
                f"--data={data}",
                *options,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], 30)
        line = self.process.stdout.readline() if ready else ""
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        if found is None:
            rest = line + (self.process.communicate(timeout=10)[0] if line else "")
            self.process.kill()
            raise RuntimeError(f"the agent did not start: {rest}")
        self.port = int(found[1])
        self.url = found[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.output = self.process.communicate(timeout=30)[0]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes, Mapping[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read(), {k.lower(): v for k, v in answer.getheaders()}
        finally:
            connection.close()

    def post(self, body: bytes, content_type: str = CONTENT_TYPE) -> tuple[int, str]:
        status, content, _ = self.request("POST", INPUT, body, {"Content-Type": content_type})
        return status, content.decode("utf-8", "replace")

    def get(self, path: str, **parameters: Any) -> Any:
        status, content, _ = self.request(
            "GET", f"/api/v1/{path}?{urlencode(parameters, doseq=True)}"
        )
        assert status == 200, content
        return json.loads(content)
