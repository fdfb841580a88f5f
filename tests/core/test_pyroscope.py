"""The Pyroscope exporter, against a server that refuses what the real one refuses."""

from __future__ import annotations

import base64
import gzip
import os
import re
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from support.check_valid import check_bytes
from support.pprof_reader import Profile

from conprof_core import Config, ConfigError, Profiler, _native, labels, testing
from conprof_core._engine import Row
from conprof_core._engine._table import PortableWindow
from conprof_core._pprof import encode_profile
from conprof_core._process import Process
from conprof_core._window import Window
from conprof_core.exporters import Destination, EncodedWindow, Verdict, create, naming
from conprof_core.exporters.naming import Measured
from conprof_core.exporters.pyroscope import encode_push, target_of

NEEDS_NATIVE = pytest.mark.skipif(
    os.environ.get("CONPROF_ENGINE") == "portable" or not hasattr(_native, "self_test"),
    reason="the native engine is not here, or another one was demanded",
)
EVERYTHING = Measured(100, ("cpu", "heap", "wall", "tasks"))
FRAMES = (("f", "/srv/f.py", 3, 1),)


# A reader of the two messages that shares nothing with the writer.


def fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        key, at = number(data, at)
        assert key & 7 == 2, "strings, bytes and messages only"
        size, at = number(data, at)
        assert at + size <= len(data)
        yield key >> 3, data[at : at + size]
        at += size


def number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


class Series:
    def __init__(self, data: bytes) -> None:
        self.labels: dict[str, str] = {}
        self.profiles: list[Profile] = []
        self.ids: list[str] = []
        for field, content in fields(data):
            if field == 1:
                pair = dict(fields(content))
                name, value = pair[1].decode(), pair[2].decode()
                assert name not in self.labels, "duplicate label name"
                self.labels[name] = value
            else:
                assert field == 2
                sample = dict(fields(content))
                self.ids.append(sample[2].decode())
                raw = gzip.decompress(sample[1])
                assert len(raw) <= 4 << 20, "profile too large"
                self.profiles.append(check_bytes(sample[1]))


def parse(body: bytes) -> list[Series]:
    """Read a request as grafana/pyroscope's distributor does, with its default limits."""
    found = [Series(content) for field, content in fields(body) if field == 1]
    for series in found:
        assert re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", series.labels["__name__"])
        assert series.labels["service_name"]
        assert len(series.labels) <= 30
        for name, value in series.labels.items():
            assert len(name.encode()) <= 1024
            assert len(value.encode()) <= 2048
        for profile in series.profiles:
            assert len(profile.samples) <= 16_000
            for kind, _ in profile.sample_types:
                assert "-" not in kind, "sample type contains -"
            for sample in profile.samples:
                assert len(sample.labels) <= 100
                assert len(sample.frames) <= 1000
        for identity in series.ids:
            assert uuid.UUID(identity).version == 4
    return found


class Server:
    """Answers as told, and keeps what it took."""

    def __init__(self) -> None:
        self.status, self.headers, self.answer = 200, {}, b""
        self.taken: list[list[Series]] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.requests.append((self.path, dict(self.headers.items())))
                assert self.headers["Content-Type"] == "application/proto"
                if server.status == 200:
                    server.taken.append(parse(body))
                self.send_response(server.status)
                for name, value in server.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(server.answer)))
                self.end_headers()
                self.wfile.write(server.answer)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


def window(rows: list[Row], measured: Measured = EVERYTHING, **options: Any) -> EncodedWindow:
    taken = PortableWindow(rows, 1_700_000_000_000_000_000, {"truncated": 1})
    config = Config(application_name="shop", **options)
    made = Window(
        taken,
        Process(config),
        engine="test",
        sequence=3,
        lost_windows=0,
        requests={},
        tasks=[row for row in rows if row.tasks],
    )
    return made.encode(naming.pyroscope(measured))


ROWS = [
    Row(FRAMES, (("http.route", "/x"), ("http.response.status_class", "2xx")), "a", 2, 20),
    Row(FRAMES, (("http.route", "/x"), ("http.response.status_class", "5xx")), "b", 1, 10),
    Row(FRAMES, (), "", inuse_bytes=5, inuse_objects=1, alloc_bytes=9, alloc_objects=2),
    Row(FRAMES, (), "", wall_ns=7, wall_samples=1, tasks=4),
]


def test_one_series_for_each_type_under_the_names_of_the_sdks(server: Server) -> None:
    exporter = create(
        Destination(
            f"pyroscope+http://me:se%40cret@127.0.0.1:{server.port}/pyro/?tenant=acme",
            EVERYTHING,
            "",
        )
    )
    assert "cret" not in exporter.name
    outcome = exporter.export(window(ROWS, labels={"tier": "web"}), 10)
    assert outcome.verdict is Verdict.DELIVERED, outcome
    (path, headers) = server.requests[0]
    assert path == "/pyro/push.v1.PusherService/Push"
    assert headers["X-Scope-OrgID"] == "acme"
    assert headers["Authorization"] == "Basic " + base64.b64encode(b"me:se@cret").decode()
    series = {one.labels["__name__"]: one for one in server.taken[0]}
    assert list(series) == ["process_cpu", "memory", "wall", "goroutine"]
    for one in series.values():
        assert one.labels["service_name"] == "shop"
        assert one.labels["tier"] == "web"
        assert not {"process_id", "runtime-id", "profile_seq"} & set(one.labels)
    cpu = series["process_cpu"].profiles[0]
    assert cpu.period_type == ("cpu", "nanoseconds")
    assert cpu.total("cpu") == 30
    assert {tuple(sample.labels.items()) for sample in cpu.samples} == {(("http_route", "/x"),)}
    assert series["memory"].profiles[0].total("inuse_space") == 5
    assert series["wall"].profiles[0].total("wall") == 7
    assert series["goroutine"].profiles[0].total("goroutine") == 4


@pytest.mark.parametrize("engine", [pytest.param("native", marks=NEEDS_NATIVE), "portable"])
def test_a_real_window(server: Server, engine: str) -> None:
    exporter = create(Destination(f"pyroscope+http://127.0.0.1:{server.port}", Measured(), ""))
    profiler = Profiler(application_name="shop", engine=engine, exporters=[exporter])
    profiler.start()
    with labels({"http.route": "/burn"}):
        sum(i * i for i in range(3_000_000))
    profiler.stop()
    (series,) = server.taken[-1]
    routes = {sample.labels.get("http_route") for sample in series.profiles[0].samples}
    assert "/burn" in routes
    assert not any("thread" in sample.labels for sample in series.profiles[0].samples)


def test_label_sets_are_bounded_and_the_rest_is_visible() -> None:
    rows = [Row(FRAMES, (("tenant", str(n)),), "", 1, 1) for n in range(600)]
    (series,) = parse(encode_push(window(rows, Measured())))
    (profile,) = series.profiles
    kept = {tuple(sample.labels.items()) for sample in profile.samples}
    assert len(kept) == 501
    over = [sample for sample in profile.samples if "conprof_overflow" in sample.labels]
    assert sum(sample.values[1] for sample in over) == 100
    assert profile.total("cpu") == 600


@NEEDS_NATIVE
def test_both_encoders_bound_and_split_alike() -> None:
    names = naming.pyroscope()._replace(max_label_sets=3, max_samples=4)
    exporter, rows = testing.MemoryExporter(names), list[Row]()
    profiler = Profiler(engine="native", exporters=[exporter])
    profiler.observe(rows.extend)
    profiler.start()
    for tenant in range(6):
        with labels(tenant=tenant):
            for size in range(3):
                sorted(str(i) for i in range(200_000 + size))
    profiler.stop()
    (exported,) = exporter.windows
    native = [check_bytes(profile.pprof_gz) for profile in exported.profiles]
    python: list[Profile] = []
    while True:
        data = encode_profile(
            rows,
            names.shapes[0],
            names,
            start_ns=exported.start_ns,
            end_ns=exported.end_ns,
            mapping_file="python",
            first_sample=4 * len(python),
        )
        if data is None:
            break
        python.append(check_bytes(data))
    assert len(native) > 1, "the premise: it was split"
    assert [content(one) for one in native] == [content(one) for one in python]
    sets = {labels for one in native for _, labels, _ in content(one)}
    assert (("conprof_overflow", "labels"),) in sets
    assert len(sets) == 4


def content(profile: Profile) -> list[tuple[Any, ...]]:
    return [
        (
            tuple((frame.function, frame.line) for frame in sample.frames),
            tuple(sorted(sample.labels.items())),
            tuple(sample.values),
        )
        for sample in profile.samples
    ]


def test_a_large_window_is_split_and_nothing_is_lost() -> None:
    rows = [
        Row((("f", "/srv/f.py", n + 1, 1),), (("tenant", str(n % 7)),), "", 1, n)
        for n in range(20_000)
    ]
    parts = parse(encode_push(window(rows, Measured())))
    assert [len(part.profiles[0].samples) for part in parts] == [8000, 8000, 4000]
    assert sum(part.profiles[0].total("cpu") for part in parts) == sum(range(20_000))
    assert len({identity for part in parts for identity in part.ids}) == 3


@pytest.mark.parametrize(
    ("status", "verdict", "words"),
    [
        (400, Verdict.REFUSED, "HTTP 400 Bad Request: invalid_argument"),
        (401, Verdict.REFUSED, "write user:password@ before the host"),
        (404, Verdict.REFUSED, "no Pyroscope"),
        (413, Verdict.REFUSED, "HTTP 413"),
        (429, Verdict.RETRY, "HTTP 429"),
        (500, Verdict.RETRY, "HTTP 500"),
        (503, Verdict.RETRY, "HTTP 503"),
    ],
)
def test_answers(server: Server, status: int, verdict: Verdict, words: str) -> None:
    server.status, server.answer, server.headers = status, b"invalid_argument", {"Retry-After": "7"}
    exporter = create(Destination(f"pyroscope+http://127.0.0.1:{server.port}", Measured(), ""))
    outcome = exporter.export(window(ROWS[:1], Measured()), 10)
    assert outcome.verdict is verdict
    assert words in outcome.detail
    assert outcome.retry_after_s == (7 if verdict is Verdict.RETRY else None)


def test_a_server_that_is_away() -> None:
    exporter = create(Destination("pyroscope+http://127.0.0.1:9", Measured(), ""))
    assert exporter.export(window(ROWS[:1], Measured()), 2).verdict is Verdict.RETRY


@pytest.mark.parametrize(
    "url",
    [
        "pyroscope+http://",
        "pyroscope+https:///prefix",
        "pyroscope+http://host:port",
        "pyroscope+http://host:99999",
        "pyroscope+http://host/?tenent=typo",
        "pyroscope+http://user:hidden@host#fragment",
        "pyroscope+ftp://host",
    ],
)
def test_urls_that_say_nothing_useful(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Config(export_to=url)
    assert "hidden" not in str(raised.value)


def test_what_a_url_says() -> None:
    target = target_of("pyroscope+https://u:p%2F@[::1]:4040/a/b?tenant=t")
    assert target.url == "https://[::1]:4040/a/b/push.v1.PusherService/Push"
    assert (target.auth, target.tenant) == (("u", "p/"), "t")
    assert target.shown == "https://[::1]:4040/a/b"


def test_hostile_labels_of_the_process() -> None:
    more = {f"k{n}": "v" for n in range(60)} | {"__name__": "other", "long": "é" * 5000}
    (series,) = parse(encode_push(window(ROWS[:1], Measured(), labels=more)))
    assert series.labels["__name__"] == "process_cpu"
