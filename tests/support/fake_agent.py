"""A receiver that plays the Blackfire Agent, as the Go probe's own test does, and can misbehave.

What it checks of a request and how it reads one follows ``profiler_test.go`` of Blackfire's Go
probe: multipart in any order of parts, ``event``/``event.json`` as JSON, every attachment whose
file name ends in ``.pprof`` (or is ``cpu``) decompressed by its magic bytes and validated, tags
split at commas and then at the first colon.

    with FakeAgent() as agent:                       # or FakeAgent(unix=tmp_path / "agent.sock")
        conprof.start(agent_socket=agent.url, ...)
        upload = agent.wait_for(1)[0]
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import socket
import socketserver
import ssl
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from support.check_valid import check_bytes
from support.pprof_reader import GZIP_MAGIC, Profile

PATH = "/profiling/v1/input"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
MAX_WAIT_S = 60.0


@dataclass(frozen=True)
class Part:
    """One part of a multipart body."""

    name: str
    filename: str | None
    content_type: str | None
    content: bytes


@dataclass
class Upload:
    """One request that was read in full, whatever was answered."""

    path: str
    headers: dict[str, str]  # keys in lower case
    body: bytes
    status: int
    parts: list[Part] = field(default_factory=list)
    event: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    profiles: dict[str, Profile] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    received_at: float = field(default_factory=time.monotonic)

    @property
    def profile(self) -> Profile:
        """The first profile."""
        return next(iter(self.profiles.values()))

    @property
    def credentials(self) -> tuple[str, str] | None:
        """User and password of HTTP Basic, if sent."""
        scheme, _, encoded = self.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        return user, password


@dataclass(frozen=True)
class Fault:
    """What to do with one request instead of accepting it.

    kinds: ``status`` (answer ``status`` with ``headers``), ``hang`` (read the request, answer
    nothing for ``seconds``), ``slow`` (read, then answer one byte every ``seconds``), ``close``
    (close after ``after`` bytes of the body), ``reset`` (as close, by RST), ``garbage`` (answer
    what is no HTTP).
    """

    kind: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    after: int = 0
    body: bytes = b""


def answer(status: int, body: bytes = b"", **headers: str) -> Fault:
    """Answer with a status: ``answer(429, Retry_After="2")``."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return Fault("status", status=status, body=body, headers=named)


class FakeAgent:
    """A threaded receiver on a free TCP port of the loopback, or on a unix socket.

    Faults queued with ``then()`` serve one request each; ``always`` serves those after them.
    Problems found while reading are kept in ``problems`` and raised by ``wait_for`` and on leaving
    the ``with`` block, unless ``strict`` is false.
    """

    def __init__(
        self, unix: Path | str | None = None, *, tls: Path | None = None, strict: bool = True
    ) -> None:
        self.uploads: list[Upload] = []  # accepted or not, in the order they were read in full
        self.problems: list[str] = []
        self.connections = 0
        self.strict = strict
        self.always: Fault | None = None
        self._faults: deque[Fault] = deque()
        self._changed = threading.Condition()
        self._released = threading.Event()
        self._unix = None if unix is None else Path(unix)
        self._tls = tls  # a certificate, its key beside it as .key
        self._port = 0
        self._server: socketserver.BaseServer | None = None
        self._thread: threading.Thread | None = None

    # Life --------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.refuse()
        if error is None:
            self._raise_problems()

    def listen(self) -> None:
        """Accept connections, again at the same address after ``refuse()``."""
        agent = self

        class Handler(_Handler):
            owner = agent

        self._released.clear()
        if self._unix is None:
            tcp = _TcpServer(("127.0.0.1", self._port), Handler)
            self._port = tcp.server_address[1]
            if self._tls is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(self._tls, f"{self._tls}.key")
                # Without a handshake here: the thread of the connection makes it.
                tcp.socket = context.wrap_socket(
                    tcp.socket, server_side=True, do_handshake_on_connect=False
                )
            self._server = tcp
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._unix)
            self._server = _UnixServer(str(self._unix), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="fake agent", daemon=True
        )
        self._thread.start()

    def refuse(self) -> None:
        """Close the listening socket: from now on connections are refused."""
        self._released.set()
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(MAX_WAIT_S)
        self._server = None
        if self._unix is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._unix)

    @property
    def url(self) -> str:
        """The socket as a user writes it: ``tcp://…`` or ``unix://…``."""
        if self._unix is not None:
            return f"unix://{self._unix}"
        return f"{'tcp' if self._tls is None else 'https'}://127.0.0.1:{self._port}"

    @property
    def host(self) -> str:
        """What the Host header must say."""
        return f"127.0.0.1:{self._port}" if self._unix is None else "localhost"

    # What the test says and asks -----------------------------------------------------------------

    def then(self, *faults: Fault) -> FakeAgent:
        """Serve the next requests with these."""
        self._faults.extend(faults)
        return self

    @property
    def accepted(self) -> list[Upload]:
        """The uploads that were answered with success."""
        with self._changed:
            return [upload for upload in self.uploads if 200 <= upload.status < 300]

    def wait_for(self, count: int, timeout_s: float = 30.0) -> list[Upload]:
        """Return the accepted uploads once there are at least ``count``.

        Raises:
            AssertionError: they did not come in time, or a request was malformed.
        """
        deadline = time.monotonic() + min(timeout_s, MAX_WAIT_S)
        with self._changed:
            while sum(200 <= upload.status < 300 for upload in self.uploads) < count:
                left = deadline - time.monotonic()
                if left <= 0 or (self.strict and self.problems):
                    break
                self._changed.wait(left)
        self._raise_problems()
        accepted = self.accepted
        seen = [upload.status for upload in self.uploads]
        assert len(accepted) >= count, f"{len(accepted)} of {count} uploads; answered: {seen}"
        return accepted

    def wait_for_requests(self, count: int, timeout_s: float = 30.0) -> list[Upload]:
        """Return the requests once ``count`` were read, whatever was answered."""
        deadline = time.monotonic() + min(timeout_s, MAX_WAIT_S)
        with self._changed:
            while len(self.uploads) < count and deadline > time.monotonic():
                self._changed.wait(max(deadline - time.monotonic(), 0))
            assert len(self.uploads) >= count, f"{len(self.uploads)} of {count} requests"
            return list(self.uploads)

    def wait_for_connections(self, count: int, timeout_s: float = 30.0) -> None:
        """Wait until ``count`` connections were made."""
        with self._changed:
            came = self._changed.wait_for(lambda: self.connections >= count, timeout_s)
        assert came, f"{self.connections} of {count} connections"

    def _raise_problems(self) -> None:
        if self.strict and self.problems:
            raise AssertionError("\n".join(self.problems))

    # Called by the handler -----------------------------------------------------------------------

    def _connected(self) -> None:
        with self._changed:
            self.connections += 1
            self._changed.notify_all()

    def _next_fault(self) -> Fault | None:
        with self._changed:
            return self._faults.popleft() if self._faults else self.always

    def _received(self, upload: Upload) -> None:
        problems = []
        try:
            read_upload(upload)
            if upload.headers.get("host") != self.host:
                problems.append(f"Host is {upload.headers.get('host')!r}, not {self.host!r}")
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}")
        with self._changed:
            self.problems += problems
            self.uploads.append(upload)
            self._changed.notify_all()


def read_upload(upload: Upload) -> None:
    """Take a request apart and check it, as the Agent's model does.

    Raises:
        AssertionError: something the Agent would refuse.
    """
    assert upload.path == PATH, f"path {upload.path}"
    content_type = upload.headers.get("content-type", "")
    assert content_type.startswith("multipart/form-data"), f"Content-Type {content_type!r}"
    head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1")
    message = BytesParser(policy=HTTP).parsebytes(head + upload.body)
    assert message.is_multipart(), "the body is no multipart"
    assert not message.defects, f"multipart: {message.defects}"
    for item in message.iter_parts():
        content = item.get_payload(decode=True)
        assert isinstance(content, bytes)
        name = item.get_param("name", header="content-disposition")
        part = Part(str(name), item.get_filename(), item.get("content-type"), content)
        upload.parts.append(part)
        if part.filename is None:
            upload.fields[part.name] = content.decode()
        elif part.name == "event":
            assert part.filename == "event.json", part.filename
            upload.event = json.loads(content)
        elif part.filename.endswith(".pprof") or part.filename == "cpu":
            upload.profiles[part.filename] = check_bytes(decompress(content))
    _check_event(upload)


def _check_event(upload: Upload) -> None:
    event = upload.event
    assert event, "no event.json"
    assert event.get("version") == "4", f"version {event.get('version')!r}"
    assert event.get("family"), "no family"
    names = [part.name for part in upload.parts if part.name != "event" and part.filename]
    attachments = event.get("attachments")
    assert attachments is not None
    assert sorted(attachments) == sorted(names), f"attachments {attachments}, parts {names}"
    for key in ("start", "end"):
        assert isinstance(event.get(key), str), f"{key} is {event.get(key)!r}"
        assert event[key].endswith("Z"), f"{key} is not UTC: {event[key]}"
    tags = event.get("tags_profiler")
    assert isinstance(tags, str), "tags_profiler must be one string"
    assert tags, "no tags"
    for tag in tags.split(","):
        key, colon, value = tag.partition(":")
        assert colon, f"the tag {tag!r} has no colon"
        assert key, f"the tag {tag!r} has no key"
        assert value, f"the tag {tag!r} has no value"
        upload.tags[key] = value  # of a repeated tag the receiver keeps the last


def decompress(data: bytes) -> bytes:
    """Decompress by magic bytes: gzip, zstd where Python has it, or nothing."""
    if data[:2] == GZIP_MAGIC:
        return gzip.decompress(data)
    if data[:4] == ZSTD_MAGIC:
        from compression import zstd  # 3.14+

        return bytes(zstd.decompress(data))
    return data


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = MAX_WAIT_S
    owner: FakeAgent

    def setup(self) -> None:
        super().setup()
        self.owner._connected()

    def address_string(self) -> str:
        return "peer"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class
        del format, args

    def do_GET(self) -> None:
        # ddtrace asks for /info once; a strict mock must tolerate it.
        self._answer(404, {}, b"")

    def do_POST(self) -> None:
        fault = self.owner._next_fault()
        length = int(self.headers.get("Content-Length", "0"))
        if fault is not None and fault.kind in ("close", "reset"):
            self.rfile.read(min(fault.after, length))
            self._hang_up(fault.kind == "reset")
            return
        body = self.rfile.read(length)
        if len(body) < length:
            self.owner.problems.append(f"{len(body)} of {length} bytes")
            return
        status = 200 if fault is None else fault.status if fault.kind == "status" else 0
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.owner._received(Upload(self.path, headers, body, status))
        if fault is None:
            self._answer(200, {}, b"")
        elif fault.kind == "status":
            self._answer(fault.status, fault.headers, fault.body)
        elif fault.kind == "hang":
            self.owner._released.wait(fault.seconds or MAX_WAIT_S)
            self._hang_up(False)
        elif fault.kind == "slow":
            self._trickle(fault.seconds)
        elif fault.kind == "garbage":
            self.wfile.write(fault.body or b"\x16\x03\x01 no HTTP\n\n")
            self._hang_up(False)
        else:
            raise AssertionError(f"no such fault: {fault.kind}")

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def _trickle(self, seconds: float) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 10_000:
            if self.owner._released.wait(seconds or 0.1):
                break
            try:
                self.wfile.write(bytes([byte]))
            except OSError:
                break
        self._hang_up(False)

    def _hang_up(self, reset: bool) -> None:
        self.close_connection = True
        if reset:
            # SO_LINGER with zero seconds: the close sends RST.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


class _Threaded(socketserver.ThreadingMixIn):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        # A client that goes away mid-way is what half of the tests are about.
        del request, client_address


class _TcpServer(_Threaded, socketserver.TCPServer):
    allow_reuse_address = True
    request_queue_size = 64


class _UnixServer(_Threaded, socketserver.UnixStreamServer):
    request_queue_size = 64
