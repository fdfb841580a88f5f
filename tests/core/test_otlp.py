"""The OTLP exporter and its two encoders, read by OpenTelemetry's own classes."""

from __future__ import annotations

import base64
import gzip
import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from support.check_otlp import Request, check_request

from conprof_core import Config, ConfigError, Profiler, _native, labels, testing
from conprof_core._engine import EngineSettings, Row, choose
from conprof_core._engine._table import PortableWindow
from conprof_core._otlp import encode_request, encode_resource
from conprof_core._process import Process
from conprof_core._window import Window
from conprof_core.exporters import Destination, EncodedWindow, Verdict, create, naming
from conprof_core.exporters.naming import Measured, Naming
from conprof_core.exporters.otlp import OTLPExporter, target_of
from conprof_core.exporters.queue import ExportQueue

service = pytest.importorskip(
    "opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2",
    reason="opentelemetry-proto, of the extra test, is not here",
)

NEEDS_NATIVE = pytest.mark.skipif(
    os.environ.get("CONPROF_ENGINE") == "portable" or not hasattr(_native, "self_test"),
    reason="the native engine is not here, or another one was demanded",
)
EVERYTHING = Measured(100, ("cpu", "heap", "wall", "tasks"))
FRAMES = (("f", "/srv/f.py", 3, 1), ("<module>", "/srv/main.py", 9, 1))
START = 1_700_000_000_000_000_000
ROWS = [
    Row(FRAMES, (("http.response.status_class", "2xx"), ("http.route", "/x")), "a", 2, 20),
    Row(FRAMES, (("http.response.status_class", "5xx"), ("http.route", "/x")), "b", 1, 10),
    Row(FRAMES, (), "", inuse_bytes=5, inuse_objects=1, alloc_bytes=9, alloc_objects=2),
    Row(FRAMES[1:], (), "", wall_ns=7, wall_samples=1, tasks=4),
    Row((("[lost]", "", 0, 0),), (), "", 1, 5),
    Row((), (("tenant", "é\u2028"),), "", 1, 5),
]


class Receiver:
    """Takes what a receiver takes, answers as told."""

    def __init__(self) -> None:
        self.status, self.headers, self.answer = 200, {}, b""
        self.before: Callable[[], None] = lambda: None
        self.taken: list[Request] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.before()
                receiver.requests.append((self.path, dict(self.headers.items())))
                assert self.headers["Content-Type"] == "application/x-protobuf"
                assert self.headers["Content-Encoding"] == "gzip"
                if receiver.status == 200:
                    receiver.taken.append(check_request(body))
                self.send_response(receiver.status)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(receiver.answer)))
                self.end_headers()
                self.wfile.write(receiver.answer)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.close()


def exporter_of(url: str, measured: Measured = EVERYTHING) -> OTLPExporter:
    exporter = create(Destination(url, measured, ""))
    assert isinstance(exporter, OTLPExporter)
    return exporter


def window(rows: list[Row], names: Naming | None = None, **options: Any) -> EncodedWindow:
    taken = PortableWindow(rows, START, {"truncated": 1}, time.time_ns())
    config = Config(application_name=options.pop("name", "shop"), **options)
    made = Window(taken, Process(config), engine="test", sequence=3, lost_windows=2, requests={})
    return made.encode(names or naming.otlp(EVERYTHING))


def encode(rows: list[Row], names: Naming) -> bytes:
    data = encode_request(
        rows,
        names,
        start_ns=START,
        end_ns=START + 5,
        resource=encode_resource({"service.name": "shop", "empty": ""}),
        version="1.2",
        profile_id=bytes(range(16)),
        attributes=[("conprof.lost.truncated", 3)],
    )
    assert data is not None
    return data


def test_one_scope_a_type_and_one_profile_a_value() -> None:
    request = check_request(encode(ROWS, naming.otlp(EVERYTHING)))
    assert request.resource == {"service.name": "shop"}
    assert request.versions == {"1.2"}
    assert request.spans == {(START, 5)}
    assert request.attributes == {"conprof.lost.truncated": 3}
    assert request.periods[("process_cpu", "cpu", "nanoseconds")] == (
        "cpu",
        "nanoseconds",
        10_000_000,
    )
    assert request.periods[("memory", "inuse_space", "bytes")] == ("space", "bytes", 512 * 1024)
    assert [name[:2] for name in request.profiles] == [
        ("process_cpu", "samples"),
        ("process_cpu", "cpu"),
        ("memory", "alloc_objects"),
        ("memory", "alloc_space"),
        ("memory", "inuse_objects"),
        ("memory", "inuse_space"),
        ("wall", "wall_samples"),
        ("wall", "wall"),
        ("goroutine", "goroutine"),
    ], "what has no value, as gil_wait here, is left out"
    cpu = request.profiles[("process_cpu", "cpu", "nanoseconds")]
    assert sorted(sample[:3] for sample in cpu) == [
        ((), (("tenant", "é\\u2028"),), 5),
        ((("[lost]", "", 0, 0),), (), 5),
        (FRAMES, (("http.route", "/x"),), 30),
    ]
    (inuse,) = request.profiles[("memory", "inuse_space", "bytes")]
    assert inuse[:3] == (FRAMES, (), 5)
    (tasks,) = request.profiles[("goroutine", "goroutine", "count")]
    assert tasks[:3] == (FRAMES[1:], (), 4)


def test_label_sets_are_bounded_and_profiles_split() -> None:
    names = naming.otlp()._replace(max_label_sets=3, max_samples=4)
    rows = [Row(FRAMES, (("tenant", str(n)),), "", 1, n) for n in range(10)]
    rows += [Row(((f"f{n}", "/srv/f.py", 3, 1),), (), "", 1, n) for n in range(10)]
    request = check_request(encode(rows, names))
    assert request.sizes[("process_cpu", "samples", "count")] == [4, 4, 4, 2]
    assert request.sizes[("process_cpu", "cpu", "nanoseconds")] == [4, 4, 4]
    assert request.total("process_cpu", "cpu") == 2 * sum(range(10))
    samples = request.profiles[("process_cpu", "samples", "count")]
    assert {sample.labels for sample in samples} == {
        (("tenant", "0"),),
        (("tenant", "1"),),
        (("tenant", "2"),),
        (("conprof.overflow", "labels"),),
    }


def test_a_profile_id_has_16_bytes() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        encode_request(
            ROWS, naming.otlp(), start_ns=1, end_ns=2, resource=b"", version="", profile_id=b"1"
        )


@NEEDS_NATIVE
@pytest.mark.native_core
@pytest.mark.parametrize(
    "bounds", [{}, {"max_samples": 3, "max_label_sets": 2}], ids=["bounds of old", "tight bounds"]
)
def test_both_encoders_write_the_same_bytes(bounds: dict[str, int]) -> None:
    names = naming.otlp(Measured(100, ("cpu", "heap", "wall")))._replace(**bounds)
    exporter, rows = testing.MemoryExporter(names), list[Row]()
    profiler = Profiler(profile_types="cpu,heap,wall", engine="native", exporters=[exporter])
    profiler.observe(rows.extend)
    profiler.start()
    for tenant in range(6):
        for status in ("2xx", "5xx", "2xx"):  # left out: what differs in it alone is one sample
            with labels({"tenant": str(tenant), "http.response.status_class": status}):
                sorted(str(i) for i in range(100_000))
    profiler.stop()
    (exported,) = exporter.windows
    native = gzip.decompress(exported.profiles[0].pprof_gz)
    request = check_request(native)
    (resource,) = request.message.resource_profiles
    python = encode_request(
        rows,
        names,
        start_ns=exported.start_ns,
        end_ns=exported.end_ns,
        resource=resource.resource.SerializeToString(),
        version=request.versions.pop(),
        profile_id=resource.scope_profiles[0].profiles[0].profile_id,
        attributes=[(f"conprof.lost.{key}", value) for key, value in exported.counters.items()],
    )
    assert native == python
    assert len({row.labels for row in rows}) > 6, "the premise: labels were sampled"
    assert len(rows) > len({row.frames + row.labels[-1:] for row in rows}), "and merged"
    assert request.total("process_cpu", "cpu") == sum(row.cpu_ns for row in rows)
    assert request.total("memory", "alloc_space") == sum(row.alloc_bytes for row in rows)
    assert request.total("wall", "wall") == sum(row.wall_ns for row in rows)


@NEEDS_NATIVE
@pytest.mark.native_core
def test_namings_that_the_extension_refuses() -> None:
    engine, _ = choose("native")
    engine.start(EngineSettings(100, 60.0, 64, lambda: None), lambda: 60.0)
    engine.stop()
    taken = engine.take_window()
    names = naming.otlp()
    empty = {"resource": b"", "version": "", "profile_id": bytes(16)}
    with pytest.raises(ValueError, match="sample types"):
        taken.encode_otlp(names._replace(shapes=names.shapes * 9), **empty)
    with pytest.raises(TypeError):
        taken.encode_otlp(names._replace(shapes=(names,)), **empty)
    with pytest.raises(TypeError, match="key, number"):
        taken.encode_otlp(names, **empty, attributes=["x"])
    with pytest.raises(ValueError, match="16 bytes"):
        taken.encode_otlp(names, **{**empty, "profile_id": b"1"})


@pytest.mark.parametrize("kind", [pytest.param("native", marks=NEEDS_NATIVE), "portable"])
def test_a_real_window(receiver: Receiver, kind: str) -> None:
    exporter = exporter_of(f"otlp+http://{receiver.base}", Measured())
    profiler = Profiler(application_name="shop", engine=kind, exporters=[exporter])
    profiler.start()
    with labels({"http.route": "/burn"}):
        sum(i * i for i in range(3_000_000))
    profiler.stop()
    request = receiver.taken[-1]
    samples = request.profiles[("process_cpu", "cpu", "nanoseconds")]
    burnt = [sample for sample in samples if ("http.route", "/burn") in sample.labels]
    assert any("test_a_real_window" in frame[0] for sample in burnt for frame in sample.frames)
    assert request.resource["service.name"] == "shop"
    assert request.resource["telemetry.sdk.name"] == "conprof"


def test_an_idle_window_needs_no_request(receiver: Receiver) -> None:
    idle = window([])
    assert idle.profiles == ()
    exporter = exporter_of(f"otlp+http://{receiver.base}")
    assert exporter.export(idle, 5) == (Verdict.DELIVERED, "", None, False)
    assert receiver.requests == []


def test_tasks_have_a_request_of_their_own(receiver: Receiver) -> None:
    tasks = [ROWS[3]._replace(wall_ns=0, wall_samples=0)]
    taken = PortableWindow(ROWS[:2], START, {}, time.time_ns())
    process = Process(Config(application_name="shop"))
    made = Window(
        taken, process, engine="test", sequence=0, lost_windows=0, requests={}, tasks=tasks
    )
    exporter = exporter_of(f"otlp+http://{receiver.base}")
    sent = made.encode(exporter.naming)
    assert len(sent.profiles) == 2
    answers = iter([200, 503, 200])
    receiver.before = lambda: setattr(receiver, "status", next(answers))
    assert exporter.export(sent, 10).verdict is Verdict.RETRY
    assert exporter.export(sent, 10).verdict is Verdict.DELIVERED
    assert len(receiver.requests) == 3, "what was taken is not sent again"
    cpu, goroutine = receiver.taken
    assert {name[0] for name in cpu.profiles} == {"process_cpu"}
    assert goroutine.total("goroutine", "goroutine") == 4
    assert cpu.resource == goroutine.resource


def test_what_stands_for_the_process(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "OTEL_RESOURCE_ATTRIBUTES",
        "deployment.environment.name=pro%2Cd,tier=env, broken ,service.name=other,host.name=h1",
    )
    exporter = exporter_of(f"otlp+http://me:p%40ss@{receiver.base}/prefix/")
    assert "p%40ss" not in exporter.name + repr(exporter.naming)
    sent = window(ROWS, exporter.naming, labels={"tier": "web"})
    assert exporter.export(sent, 10).verdict is Verdict.DELIVERED
    ((path, headers),) = receiver.requests
    assert path == "/prefix/v1development/profiles"
    assert headers["Authorization"] == "Basic " + base64.b64encode(b"me:p@ss").decode()
    (request,) = receiver.taken
    assert request.resource["service.name"] == "shop", "an explicit name first"
    assert request.resource["deployment.environment.name"] == "pro,d"
    assert request.resource["tier"] == "web", "labels of the process before the environment"
    assert request.resource["host.name"] == "h1", "the environment before what was found out"
    assert not {"process_id", "runtime-id", "profile_seq", "service"} & set(request.resource)
    assert request.attributes == {"conprof.lost.truncated": 1, "conprof.lost.windows_dropped": 2}


def test_the_name_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=from%20list")
    assert Process(Config.from_env()).service == "from list"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "from-name")
    assert Process(Config.from_env()).service == "from-name"
    monkeypatch.setenv("BLACKFIRE_CONPROF_APP_NAME", "own")
    assert Process(Config.from_env()).service == "own"


@pytest.mark.parametrize(
    ("status", "verdict", "words"),
    [
        (400, Verdict.REFUSED, "HTTP 400 Bad Request: no such field"),
        (401, Verdict.REFUSED, "other credentials"),
        (404, Verdict.REFUSED, "service.profilesSupport"),
        (408, Verdict.REFUSED, "HTTP 408"),
        (413, Verdict.REFUSED, "HTTP 413"),
        (429, Verdict.RETRY, "HTTP 429"),
        (500, Verdict.REFUSED, "HTTP 500"),
        (502, Verdict.RETRY, "HTTP 502"),
        (503, Verdict.RETRY, "HTTP 503"),
        (504, Verdict.RETRY, "HTTP 504"),
    ],
)
def test_answers(receiver: Receiver, status: int, verdict: Verdict, words: str) -> None:
    # google.rpc.Status: code 3, message.
    receiver.answer = b"\x08\x03\x12\x0dno such field"
    receiver.status, receiver.headers = status, {"Retry-After": "7"}
    outcome = exporter_of(f"otlp+http://{receiver.base}").export(window(ROWS), 10)
    assert outcome.verdict is verdict
    assert words in outcome.detail
    assert outcome.retry_after_s == (7 if verdict is Verdict.RETRY else None)


def test_a_receiver_that_is_away() -> None:
    assert exporter_of("otlp+http://127.0.0.1:9").export(window(ROWS), 2).verdict is Verdict.RETRY


def test_what_is_taken_in_part_is_counted_and_not_sent_again(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    answer = service.ExportProfilesServiceResponse()
    answer.partial_success.rejected_profiles = 3
    answer.partial_success.error_message = "too many"
    receiver.answer = answer.SerializeToString()
    exporter = exporter_of(f"otlp+http://{receiver.base}")
    queue = ExportQueue(exporter)
    for sequence in range(2):
        queue.submit(window(ROWS)._replace(sequence=sequence))
        assert queue.drain(10)
    assert exporter.rejected == 6
    assert len(receiver.requests) == 2
    assert queue.stats()["exported"] == 2
    assert queue.stats()["last_error"] == "3 profiles were rejected: too many"
    assert caplog.text.count("3 profiles were rejected: too many") == 1, "said once"


@pytest.mark.parametrize("answer", [b"\xff" * 40, b"\x0a", b"\x0a\x7f\x08", b"{}", b"\x08\x01"])
def test_an_answer_that_is_none(receiver: Receiver, answer: bytes) -> None:
    receiver.answer = answer
    outcome = exporter_of(f"otlp+http://{receiver.base}").export(window(ROWS), 10)
    assert outcome.verdict is Verdict.DELIVERED


@pytest.mark.parametrize(
    ("variables", "url", "headers"),
    [
        ({}, "http://localhost:4318/v1development/profiles", {}),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "https://c:443/p/",
                "OTEL_EXPORTER_OTLP_HEADERS": "a=1",
            },
            "https://c:443/p/v1development/profiles",
            {"a": "1"},
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://general:4317",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_PROFILES_ENDPOINT": "http://[::1]:9/as/it/is",
                "OTEL_EXPORTER_OTLP_HEADERS": "a=1",
                "OTEL_EXPORTER_OTLP_PROFILES_HEADERS": "b=%202,c=3=4",
            },
            "http://[::1]:9/as/it/is",
            {"b": " 2", "c": "3=4"},
        ),
    ],
    ids=["default", "all signals", "profiles"],
)
def test_the_environment_names_the_receiver(
    variables: dict[str, str], url: str, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    target = target_of("otlp:")
    assert (target.url, dict(target.headers)) == (url, headers)


def test_credentials_of_the_environment_stay_with_its_receiver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=secret,authorization=x")
    assert target_of("otlp+http://elsewhere:4318").headers == {}
    assert set(target_of("otlp:").headers) == {"api-key", "authorization"}
    assert "secret" not in repr(target_of("otlp:"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROFILES_HEADERS", "authorization=y")
    target = target_of("otlp+https://u:p@here")
    assert target.headers == {"Authorization": "Basic dTpw"}, "the URL first"


@pytest.mark.parametrize(
    "url",
    [
        "otlp+http://",
        "otlp+https:///prefix",
        "otlp+http://host:port",
        "otlp+http://user:hidden@host?query=no",
        "otlp+http://user:hidden@host:99999",
        "otlp+grpc://host",
        "otlp://host:4317",
        "otlp:host",
    ],
)
def test_urls_that_say_nothing_useful(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Config(export_to=url)
    assert "hidden" not in str(raised.value)


def test_an_environment_that_is_for_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(ConfigError, match="conprof speaks HTTP"):
        Config(export_to="otlp:")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROFILES_ENDPOINT", "collector:4318")
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_PROFILES_ENDPOINT"):
        Config(export_to="otlp:")
