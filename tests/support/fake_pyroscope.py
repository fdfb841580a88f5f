"""A Pyroscope for tests: refuses what the real server refuses by default, and gives out the rest.

The rules and figures are those of grafana/pyroscope (August 2026): ``pkg/distributor`` and
``pkg/validation`` (order of the checks, limits, codes), ``pkg/pprof`` and ``pkg/model/pprofsplit``
(what is dropped, what becomes a series), ``pkg/phlaredb`` (what storage version 1 takes for a
difference, and for the same profile twice). OTLP is ``fake_pyroscope_otlp``.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from support.pprof_reader import Profile, WireError, parse

__all__ = ["FakePyroscope", "PushedSeries", "RefusedError", "Stored", "read_push"]

MAX_LABEL_NAMES, MAX_LABEL_NAME, MAX_LABEL_VALUE = 30, 1024, 2048
MAX_PROFILE_BYTES, MAX_SAMPLES, MAX_SAMPLE_LABELS, MAX_DEPTH = 4 << 20, 16_000, 100, 1000
BURST_BYTES, RATE_BYTES = 2 << 20, 4 << 20
OLDEST_S, NEWEST_S = 3600, 600
STATUS = {
    "invalid_argument": 400,
    "unauthenticated": 401,
    "resource_exhausted": 429,
    "unknown": 500,
}
# Labels of samples that do not make a series: they lead from a span to its samples.
SPAN_LABELS = ("span_id", "trace_id", "profile_id")
DIFFERENCES = {("memory", "alloc_objects"), ("memory", "alloc_space")}

Stack = tuple[str, ...]


class RefusedError(Exception):
    """A request, or one series of it, is not taken."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class PushedSeries(NamedTuple):
    """One series of a request, as sent: a label may stand twice in it.

    Attributes:
        profiles: (id, bytes of a pprof).
    """

    labels: tuple[tuple[str, str], ...]
    profiles: tuple[tuple[str, bytes], ...]


class Stored(NamedTuple):
    """One sample type of one series at one time.

    Attributes:
        profile_type: ``process_cpu:cpu:nanoseconds:cpu:nanoseconds``.
        spans: (span id, value) of the samples that name a span.
    """

    profile_type: str
    labels: dict[str, str]
    time_ms: int
    stacks: Counter[Stack]
    spans: Counter[str]


# A reader of the request that shares nothing with the writer.


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        key, at = _number(data, at)
        if key & 7 != 2:
            raise RefusedError("invalid_argument", "strings, bytes and messages only")
        size, at = _number(data, at)
        if at + size > len(data):
            raise RefusedError("invalid_argument", "unexpected EOF")
        yield key >> 3, data[at : at + size]
        at += size


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def _text(message: dict[int, bytes], field: int) -> str:
    return message.get(field, b"").decode()


def read_push(body: bytes) -> list[PushedSeries]:
    """Read a ``PushRequest`` (``api/push/v1/push.proto``)."""
    found = []
    for _, content in _fields(body):
        labels, profiles = [], []
        for field, part in _fields(content):
            message = dict(_fields(part))
            if field == 1:
                labels.append((_text(message, 1), _text(message, 2)))
            elif field == 2:
                profiles.append((_text(message, 2), message.get(1, b"")))
        found.append(PushedSeries(tuple(labels), tuple(profiles)))
    return found


class FakePyroscope:
    """Listens on the loopback until ``close()``.

    Attributes:
        storage: 1 for the storage of Pyroscope 1.x, 2 for that of 2.x.
        tenants: whether a request must name its tenant.
        limited: whether the rate limit holds; its bucket is full at first.
        rate_bytes: what a second adds to the bucket.
        status, headers, answer: what is answered to every push instead, unless 200.
        requests: (path, headers) of every request.
        taken: what was pushed, a list for each request that was taken as a whole.
        stored: what a query finds.
    """

    def __init__(self, storage: int = 1, tenants: bool = False, limited: bool = True) -> None:
        self.storage, self.tenants, self.limited = storage, tenants, limited
        self.rate_bytes = RATE_BYTES
        self.status, self.headers, self.answer = 200, dict[str, str](), b""
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.taken: list[list[PushedSeries]] = []
        self.stored: list[Stored] = []
        self._bucket, self._filled = float(BURST_BYTES), time.monotonic()
        self._highest: dict[tuple[Any, ...], Counter[Stack]] = {}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # What is refused, in the order of pkg/distributor.

    def push(self, body: bytes) -> None:
        """Take a request; of one that is refused, the series that are in order are kept."""
        series = read_push(body)
        refused = []
        count = 0
        for one in series:
            for identity, data in one.profiles:
                try:
                    self.take(list(one.labels), *_profile(data))
                except RefusedError as error:
                    text = f"push series with index {count} and id {identity} failed: {error}"
                    refused.append(RefusedError(error.code, text))
                count += 1
        if not count:
            raise RefusedError("invalid_argument", "no profiles received")
        if refused:
            raise refused[0]
        self.taken.append(series)

    def take(self, labels: list[tuple[str, str]], profile: Profile, size: int) -> None:
        """Check and keep one profile under the labels of its series."""
        if not dict(labels).get("service_name"):
            labels.append(("service_name", "unknown_service"))
        self._spend(size + sum(len((name + value).encode()) for name, value in labels))
        _check_profile(profile, size)
        groups = _split(profile)
        for found, _ in groups:
            _check_labels(_joined(labels, found))
        for found, samples in groups:
            self._keep(dict(_joined(labels, found)), profile, samples)

    def _spend(self, size: int) -> None:
        """A token bucket: what is larger than it when full never fits."""
        with self._lock:
            now = time.monotonic()
            gained = (now - self._filled) * self.rate_bytes
            self._bucket, self._filled = min(BURST_BYTES, self._bucket + gained), now
            if self.limited and size > self._bucket:
                text = f"push rate limit (4.0 MiB) exceeded while adding {size} B"
                raise RefusedError("resource_exhausted", text)
            self._bucket -= size

    def _keep(self, labels: dict[str, str], profile: Profile, samples: list[int]) -> None:
        is_difference = labels.pop("__delta__", "") == "false"
        labels.pop("__otel__", None)
        name = labels["__name__"]
        for column, kind in enumerate(profile.sample_types):
            stacks, spans = Counter[Stack](), Counter[str]()
            for index in samples:
                sample = profile.samples[index]
                stacks[sample.functions[-MAX_DEPTH:]] += sample.values[column]
                span = sample.labels.get("span_id") or sample.labels.get("profile_id")
                if span:
                    spans[span] += sample.values[column]
            profile_type = ":".join((name, *kind, *profile.period_type))
            time_ms = (profile.time_nanos or time.time_ns()) // 1_000_000
            if self.storage == 1 and (name, kind.type) in DIFFERENCES and not is_difference:
                key = (profile_type, *sorted(labels.items()))
                before = self._highest.get(key)
                self._highest[key] = Counter(stacks)
                if before is None or any(stacks[s] < before[s] for s in stacks if s in before):
                    continue
                stacks = Counter({stack: value - before[stack] for stack, value in stacks.items()})
            if any(stacks.values()):
                self.stored.append(Stored(profile_type, labels, time_ms, stacks, spans))

    # What a query gives out.

    def select(self, profile_type: str, selector: str, start: int, end: int) -> Counter[Stack]:
        """Return the sum of what matches, in a span of unix milliseconds."""
        wanted = dict(re.findall(r'"?([\w.]+)"?="((?:[^"\\]|\\.)*)"', selector))
        total = Counter[Stack]()
        seen = set()
        for one in self.stored:
            if one.profile_type != profile_type or not start <= one.time_ms <= end:
                continue
            if any(one.labels.get(name, "") != value for name, value in wanted.items()):
                continue
            identity = (one.time_ms, *sorted(one.labels.items()))
            if self.storage == 1 and identity in seen:
                continue  # taken for a replica of the other
            seen.add(identity)
            total.update(one.stacks)
        return total

    def select_json(self, question: dict[str, Any]) -> dict[str, Any]:
        """Answer ``SelectMergeProfile`` as protojson writes ``google.v1.Profile``."""
        if not question.get("profileTypeID") or not question.get("labelSelector"):
            raise RefusedError("invalid_argument", "profile-type is required")
        span = int(question["start"]), int(question["end"])
        found = self.select(question["profileTypeID"], question["labelSelector"], *span)
        names = sorted({name for stack in found for name in stack})
        number = {name: str(at) for at, name in enumerate(names, 1)}
        return {
            "sample": [
                {"locationId": [number[name] for name in stack], "value": [str(value)]}
                for stack, value in found.items()
            ],
            "location": [{"id": at, "line": [{"functionId": at}]} for at in number.values()],
            "function": [{"id": at, "name": at} for at in number.values()],
            "stringTable": ["", *names],
        }


def _profile(data: bytes) -> tuple[Profile, int]:
    """Return a profile and its size when not compressed."""
    raw = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    if len(raw) > MAX_PROFILE_BYTES:
        raise RefusedError(
            "invalid_argument", "uncompressed profile payload size exceeds limit of 4 MB"
        )
    try:
        return parse(raw), len(raw)
    except WireError as error:
        raise RefusedError("unknown", str(error)) from error


def _check_profile(profile: Profile, size: int) -> None:
    """As ``ValidateProfile``, in its order."""
    age_s = time.time() - profile.time_nanos / 1e9
    problems = {
        "empty profile": not profile.sample_types,
        "is outside of ingestion window": profile.time_nanos > 0
        and not -NEWEST_S < age_s < OLDEST_S,
        "exceeds the size limit (max_profile_size_byte": size > MAX_PROFILE_BYTES,
        "exceeds the samples count limit (max_profile_stacktrace_samples": len(profile.samples)
        > MAX_SAMPLES,
        "exceeds the sample labels limit": any(
            len(sample.stored_labels) > MAX_SAMPLE_LABELS for sample in profile.samples
        ),
        "location id is 0": any(location.id == 0 for location in profile.locations),
        "function id is 0": any(function.id == 0 for function in profile.functions),
        "sample value length mismatch": any(
            len(sample.values) != len(profile.sample_types) for sample in profile.samples
        ),
        "string 0 should be empty string": profile.strings[:1] != [""],
        "sample type contains -": any("-" in kind.type for kind in profile.sample_types),
    }
    for problem, holds in problems.items():
        if holds:
            raise RefusedError("invalid_argument", problem)


def _split(profile: Profile) -> list[tuple[tuple[tuple[str, str], ...], list[int]]]:
    """Return the sets of text labels, and the samples of each that hold anything."""
    groups = defaultdict[tuple[tuple[str, str], ...], list[int]](list)
    for index, sample in enumerate(profile.samples):
        if any(value < 0 for value in sample.values) or not any(sample.values):
            continue
        found = sorted((k, v) for k, v in sample.labels.items() if k not in SPAN_LABELS and v)
        groups[tuple(found)].append(index)
    return list(groups.items())


def _joined(
    labels: list[tuple[str, str]], found: tuple[tuple[str, str], ...]
) -> list[tuple[str, str]]:
    """Labels of a series stand before those of its samples."""
    known = {name for name, _ in labels}
    return [*labels, *(pair for pair in found if pair[0] not in known)]


def _check_labels(labels: list[tuple[str, str]]) -> None:
    """As ``ValidateLabels``: of a series with the labels of its samples."""
    names = [name for name, _ in labels]
    problems = {
        f"has {len(labels)} label names; limit {MAX_LABEL_NAMES}": len(labels) > MAX_LABEL_NAMES,
        "invalid metric name": not dict(labels).get("__name__"),
        "has label name too long": any(len(name.encode()) > MAX_LABEL_NAME for name in names),
        "has label value too long": any(len(v.encode()) > MAX_LABEL_VALUE for _, v in labels),
        "invalid label name ''": "" in names,
        "has duplicate label name": len(set(names)) < len(names),
    }
    for problem, holds in problems.items():
        if holds:
            raise RefusedError("invalid_argument", f"profile series {problem}")


def _handler(server: FakePyroscope) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.requests.append((self.path, dict(self.headers.items())))
            # A prefix belongs to a proxy in front.
            route = _ROUTES.get("/" + "/".join(self.path.split("?")[0].split("/")[-2:]))
            if route is None:
                self._answer(404, b"404 page not found\n")
            elif server.status != 200:
                self._answer(server.status, server.answer, **server.headers)
            else:
                kind, answer = route
                self._serve(kind, answer, body)

        def _serve(
            self,
            kinds: tuple[str, ...],
            answer: Callable[[FakePyroscope, bytes], bytes],
            body: bytes,
        ) -> None:
            if self.headers["Content-Type"] not in kinds:
                self._answer(415, b"")
                return
            if self.headers["Content-Encoding"] == "gzip":
                body = gzip.decompress(body)
            try:
                if server.tenants and not self.headers["X-Scope-OrgID"]:
                    raise RefusedError("unauthenticated", "no org id")
                self._answer(200, answer(server, body))
            except RefusedError as error:
                said = json.dumps({"code": error.code, "message": str(error)})
                self._answer(STATUS[error.code], said.encode())

        def _answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


def _push(server: FakePyroscope, body: bytes) -> bytes:
    server.push(body)
    return b""


def _select(server: FakePyroscope, body: bytes) -> bytes:
    return json.dumps(server.select_json(json.loads(body))).encode()


def _otlp(server: FakePyroscope, body: bytes) -> bytes:
    from support.fake_pyroscope_otlp import export

    export(server, body)
    return b""


_ROUTES = {
    "/push.v1.PusherService/Push": (("application/proto",), _push),
    "/querier.v1.QuerierService/SelectMergeProfile": (("application/json",), _select),
    "/v1development/profiles": (("application/x-protobuf", "application/protobuf"), _otlp),
}
