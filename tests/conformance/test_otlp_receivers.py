"""What an OpenTelemetry Collector makes of a window, read back: as it was sent."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.check_otlp import Request, check_request

from conformance.receivers import Sink, binary, free_port, running
from conformance.windows import exporter_of, rows, window
from conprof_core import Profiler, labels, testing
from conprof_core.exporters import Verdict


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
    assert len(expected.profiles) == sum(len(one.sample_types) for one in exporter.naming.shapes)
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
