"""Starts receivers and waits for them; what a test needs to send and to read back."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.check_otlp import Request

START_S = 60.0

# Read at import: during a test no variable of ours is set.
BINARIES = {
    name: os.environ.get(f"CONPROF_{name.upper()}", "")
    for name in ("otelcol", "parca", "pyroscope")
}


INSTEAD = {
    "otelcol": "its rules are those of support/check_otlp.py",
    "parca": "its rules are those of support/check_otlp.py and support/check_valid.py",
    "pyroscope": "a fake stands in its place, support/fake_pyroscope.py",
}
"""Where the rules of a receiver that is not here are kept."""


def binary(name: str) -> str:
    """Return the path of a receiver; skips the test where none is named."""
    if not BINARIES[name]:
        pytest.skip(f"CONPROF_{name.upper()} names no binary; see make test-conformance")
    return BINARIES[name]


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: Sequence[str], directory: Path, port: int) -> Iterator[None]:
    """Run a receiver in a directory of its own until the block ends.

    Raises:
        AssertionError: it ended, or does not listen in time; with what it wrote.
    """
    log = directory / "receiver.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=directory, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + START_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, log.read_text("utf-8", "replace")[-3000:]
            assert time.monotonic() < deadline, log.read_text("utf-8", "replace")[-3000:]
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Sink:
    """An HTTP server behind a Collector; keeps the requests that arrive, decoded.

    A Collector refers to the dictionary wherever it can, so this reads what ``check_request``, made
    for what conprof sends, would not take.
    """

    def __init__(self) -> None:
        self.taken: list[Request] = []
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                from opentelemetry.proto.collector.profiles.v1development import (
                    profiles_service_pb2 as service,
                )

                message = service.ExportProfilesServiceRequest()
                message.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
                sink.taken.append(Request(message))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
