"""Proof that a profiler profiles: a receiver that waits for an upload that names the work.

A column of ``cost.py`` is worth something only if the profiler in it is at work. What it uploads is
searched, unpacked, for the name of a function that every workload calls; of a profiler of memory,
for a profile that gives allocated or live bytes to the function that allocates.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd  # with conprof[agent], as the tests have it

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from support.pprof_reader import WireError, _fields, parse  # noqa: E402

FUNCTION = b"fold_words"
ALLOCATES = "allocate"
GZIP, ZSTD = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"
WAIT_S = 60.0


class Receiver(ThreadingHTTPServer):
    """Takes every request on a port of loopback; ``named`` is set when one shows the work."""

    def __init__(self, memory: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.memory = memory
        self.named = threading.Event()
        self.uploads = 0
        self.bytes = 0

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed in the middle is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Receiver

    def do_POST(self) -> None:
        body = self._body()
        if body:
            self.server.uploads += 1
            self.server.bytes += len(body)
            shows = _allocated if self.server.memory else _names
            if any(map(shows, _unpacked(body))):
                self.server.named.set()
        self.do_GET()

    do_PUT = do_POST  # noqa: N815 - the name that the base class looks for

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, *args: Any) -> None:
        """Be quiet."""


def _unpacked(data: bytes, depth: int = 3) -> Iterator[bytes]:
    """Yield ``data``, and what is compressed somewhere in it."""
    yield data
    if not depth:
        return
    for magic, unpack in ((GZIP, _gunzip), (ZSTD, _unzstd)):
        at = data.find(magic)
        while at >= 0:
            inner = unpack(data[at:])
            if inner:
                yield from _unpacked(inner, depth - 1)
            at = data.find(magic, at + 1)


def _names(data: bytes) -> bool:
    return FUNCTION in data


def _allocated(data: bytes, depth: int = 3) -> bool:
    """Whether it is, or is a message around, a profile with memory of the function."""
    try:
        profile = parse(data)
    except (WireError, ValueError, IndexError):
        try:
            parts = [value for _, _, value in _fields(data) if isinstance(value, bytes)]
        except (WireError, ValueError, IndexError):
            return False
        return depth > 0 and any(_allocated(part, depth - 1) for part in parts)
    return any(
        ALLOCATES in name and value > 0
        for kind in profile.sample_types
        if kind.unit == "bytes"
        for name, value in profile.by_function(kind.type).items()
    )


def _gunzip(data: bytes) -> bytes:
    try:
        return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(data)
    except zlib.error:
        return b""


def _unzstd(data: bytes) -> bytes:
    try:
        return bytes(zstd.ZstdDecompressor().decompress(data))
    except zstd.ZstdError:
        return b""


def prove(
    python: Path, workload: str, profiler: str, directory: Path, *, memory: bool = False
) -> str:
    """Run a workload until an upload names the work, or its memory; return what was seen.

    Raises:
        RuntimeError: no such upload came within a minute.
    """
    with Receiver(memory) as receiver:
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        log = directory / f"proof-{workload}-{profiler}.log"
        progress = log.with_suffix(".progress")
        process = subprocess.Popen(
            [str(python), str(HERE / "cost_workloads.py"), workload, profiler, str(progress)],
            env={**os.environ, "COST_UPLOAD_TO": receiver.address},
            stdout=subprocess.DEVNULL,
            stderr=log.open("wb"),
            start_new_session=True,
        )
        try:
            found = receiver.named.wait(WAIT_S)
        finally:
            os.killpg(process.pid, 9)
            process.wait()
            receiver.shutdown()
    seen = f"{receiver.uploads} uploads, {receiver.bytes} bytes"
    if not found:
        text = log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{workload} with {profiler} is not profiled: {seen}\n{text}")
    return seen
