"""What an OpenTelemetry Collector and Parca make of a window, read back: as it was sent."""

from __future__ import annotations

import base64
import gzip
import json
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.check_otlp import Request, check_request
from support.pprof_reader import parse

from conformance.receivers import Sink, binary, free_port, running
from conprof_core import Config, Profiler, labels, testing
from conprof_core._engine import Row
from conprof_core._engine._table import PortableWindow
from conprof_core._process import Process
from conprof_core._window import Window
from conprof_core.exporters import Destination, EncodedWindow, Verdict, create
from conprof_core.exporters.naming import Measured
from conprof_core.exporters.otlp import OTLPExporter

EVERYTHING = Measured(100, ("cpu", "heap", "wall", "tasks"))


@pytest.fixture
def sink() -> Iterator[Sink]:
    running_sink = Sink()
    yield running_sink
    running_sink.close()


@pytest.fixture
def collector(tmp_path: Path, sink: Sink) -> Iterator[str]:
    """The address of a Collector that forwards to the sink, and answers when that has answered."""
    port = free_port()
    tmp_path.joinpath("collector.yaml").write_text(f"""
receivers: {{otlp: {{protocols: {{http: {{endpoint: "127.0.0.1:{port}"}}}}}}}}
exporters:
  otlp_http:
    endpoint: {sink.url}
    compression: none
    sending_queue: {{enabled: false}}
    retry_on_failure: {{enabled: false}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines: {{profiles: {{receivers: [otlp], exporters: [otlp_http]}}}}
""")
    command = [
        binary("otelcol"),
        "--config=collector.yaml",
        "--feature-gates=service.profilesSupport",
    ]
    with running(command, tmp_path, port):
        yield f"otlp+http://127.0.0.1:{port}"


def exporter_of(url: str) -> OTLPExporter:
    exporter = create(Destination(url, EVERYTHING, ""))
    assert isinstance(exporter, OTLPExporter)
    return exporter


def rows() -> list[Row]:
    """Rows of all types with stacks and labels that repeat, and frames without a file."""
    made = []
    for n in range(400):
        frames = [
            (f"f{level}_{n % (level + 2)}", f"/srv/é/{level}.py", n % 50 + 1, level + 1)
            for level in range(1 + n % 30)
        ]
        frames.append(("[lost]", "", 0, 0) if n % 17 == 0 else ("<module>", "/srv/m.py", 1, 1))
        found = (("http.route", f"/r/{n % 7}"), ("tenant", str(n % 11)))
        values = [n % 5, n * 1_000_003, n % 3, n * 7, n % 2, n % 4, n * 10, n % 6, n * 512, n % 9]
        made.append(Row(tuple(frames), found, "worker", *values))
    return made


def window(exporter: OTLPExporter) -> EncodedWindow:
    taken = PortableWindow(rows(), time.time_ns() - 5_000_000_000, {"truncated": 7})
    process = Process(Config(application_name="shop", labels={"tier": "web"}))
    made = Window(taken, process, engine="test", sequence=0, lost_windows=0, requests={})
    return made.encode(exporter.naming)


def assert_equal(got: Request, sent: Request) -> None:
    assert got.resource == sent.resource
    assert got.attributes == sent.attributes
    assert got.periods == sent.periods
    assert got.spans == sent.spans
    assert got.versions == sent.versions
    assert {name: sorted(samples) for name, samples in got.profiles.items()} == {
        name: sorted(samples) for name, samples in sent.profiles.items()
    }


def test_a_collector_forwards_what_was_sent(collector: str, sink: Sink) -> None:
    exporter = exporter_of(collector)
    sent = window(exporter)
    outcome = exporter.export(sent, 20)
    assert outcome.verdict is Verdict.DELIVERED, outcome
    expected = check_request(sent.profiles[0].pprof_gz)
    assert len(expected.profiles) == 10
    (got,) = sink.taken
    assert_equal(got, expected)
    for shape in exporter.naming.shapes:
        for kind, _, column in shape.sample_types:
            assert got.total(shape.name, kind) == sum(getattr(row, column) for row in rows())


def test_a_collector_forwards_what_a_profiler_saw(collector: str, sink: Sink) -> None:
    exporter = exporter_of(collector)
    memory = testing.MemoryExporter(exporter.naming)
    profiler = Profiler(application_name="shop", exporters=[exporter, memory], upload_timeout=20)
    profiler.start()
    with labels({"http.route": "/burn"}):
        sum(i * i for i in range(3_000_000))
    assert profiler.flush(20)
    stats = profiler.stats()
    profiler.stop()
    assert (stats["refused"], stats["dropped"]) == (0, 0)
    sent = [check_request(profile.pprof_gz) for one in memory.windows for profile in one.profiles]
    assert sent, "the premise: there were samples"
    assert len(sink.taken) == len(sent)
    for got, expected in zip(sink.taken, sent, strict=True):
        assert_equal(got, expected)


def test_what_a_collector_refuses_is_said_in_its_words(collector: str) -> None:
    exporter = exporter_of(collector)
    broken = gzip.compress(gzip.decompress(window(exporter).profiles[0].pprof_gz)[:-9])
    sent = window(exporter)
    sent = sent._replace(profiles=(sent.profiles[0]._replace(pprof_gz=broken),))
    outcome = exporter.export(sent, 20)
    assert outcome.verdict is Verdict.REFUSED
    assert "HTTP 400" in outcome.detail
    assert "EOF" in outcome.detail


def test_a_collector_without_the_feature_gate_takes_no_profiles(tmp_path: Path) -> None:
    port = free_port()
    tmp_path.joinpath("collector.yaml").write_text(f"""
receivers: {{otlp: {{protocols: {{http: {{endpoint: "127.0.0.1:{port}"}}}}}}}}
exporters: {{otlp_http: {{endpoint: "http://127.0.0.1:9"}}}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines: {{traces: {{receivers: [otlp], exporters: [otlp_http]}}}}
""")
    exporter = exporter_of(f"otlp+http://127.0.0.1:{port}")
    with running([binary("otelcol"), "--config=collector.yaml"], tmp_path, port):
        outcome = exporter.export(window(exporter), 20)
    assert outcome.verdict is Verdict.REFUSED
    assert "service.profilesSupport" in outcome.detail


def test_parca_shows_what_was_sent(tmp_path: Path) -> None:
    """Parca takes OTLP over gRPC only: the bytes of the exporter, by a client of the test."""
    port = free_port()
    tmp_path.joinpath("parca.yaml").write_text(
        'object_storage: {bucket: {type: "FILESYSTEM", config: {directory: "./data"}}}'
    )
    command = [
        binary("parca"), "--config-path=parca.yaml", f"--http-address=127.0.0.1:{port}"
    ]  # fmt: skip
    grpc = pytest.importorskip("grpc")
    from opentelemetry.proto.collector.profiles.v1development import (
        profiles_service_pb2 as service,
    )
    from opentelemetry.proto.collector.profiles.v1development import (
        profiles_service_pb2_grpc as service_grpc,
    )

    exporter = exporter_of("otlp:")
    message = service.ExportProfilesServiceRequest()
    message.ParseFromString(gzip.decompress(window(exporter).profiles[0].pprof_gz))
    with running(command, tmp_path, port):
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            service_grpc.ProfilesServiceStub(channel).Export(message, timeout=20)
        for shape in exporter.naming.shapes:
            for kind, unit, column in shape.sample_types:
                name = ":".join((shape.name, kind, unit, *shape.period_type, "delta"))
                expected = Counter[str]()
                for row in rows():
                    expected[dict(row.labels)["http.route"]] += getattr(row, column)
                # Parca gives out numbers of samples times the period.
                factor = shape.period if kind == "samples" else 1
                for route in ("/r/0", "/r/5"):
                    query = f'{name}{{service_name="shop",tier="web",http_route="{route}"}}'
                    assert parca_total(port, query) == factor * expected[route], query


def parca_total(port: int, query: str) -> int:
    """Return the sum that Parca gives out as pprof for a query."""
    now = time.time()
    parameters = {
        "mode": "MODE_MERGE",
        "merge.query": query,
        "merge.start": stamp(now - 3600),
        "merge.end": stamp(now + 60),
        "reportType": "REPORT_TYPE_PPROF",
    }
    url = f"http://127.0.0.1:{port}/api/profiles/query?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=20) as answer:
        profile = parse(base64.b64decode(json.load(answer)["pprof"]))
    return sum(sample.values[0] for sample in profile.samples)


def stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
