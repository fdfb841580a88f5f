"""start, stop, flush and stats in one process, on every engine."""

from __future__ import annotations

import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from support.check_valid import check_bytes
from support.fake_agent import FakeAgent

import conprof_core as conprof
from conprof_core import AlreadyRunningError, ConfigError, EngineUnavailableError, Profiler, testing
from conprof_core import _engine as engine_module
from conprof_core._engine import EngineUnavailable


def burn(cpu_s: float) -> None:
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(500))


def test_from_start_to_a_profile(engine: str, agent: FakeAgent) -> None:
    conprof.start(
        application_name="shop",
        agent_socket=agent.url,
        labels={"tier": "web,1", "version": "a:b"},
        server_id="me",
        server_token="token",
    )
    assert conprof.is_running()
    with conprof.labels(job="invoice"):
        burn(0.3)
    conprof.stop()
    assert not conprof.is_running()
    (upload,) = agent.wait_for(1)
    tags = upload.tags
    assert (tags["service"], tags["application_name"]) == ("shop", "shop")
    assert (tags["language"], tags["tier"], tags["version"]) == ("python", "web_1", "a:b")
    assert (tags["profile_seq"], tags["engine"]) == ("0", engine)
    assert len(tags["runtime-id"]) == 32
    assert {"host", "runtime", "runtime_version", "runtime_os", "runtime_arch"} <= set(tags)
    assert {"process_id", "probe_version"} <= set(tags)
    assert upload.credentials == ("me", "token")
    # On a busy machine the portable engine's first and last look come late, and with another stack.
    assert upload.profile.by_label("job")["invoice"] > (0.25e9 if engine == "native" else 0.1e9)


def test_uploads_hold_no_path_of_the_interpreter_and_no_argument(
    engine: str, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/secret/place/tool.py", "--password=hunter2"])
    monkeypatch.setattr("__main__.__spec__", None)
    conprof.start(agent_socket=agent.url)
    burn(0.05)
    conprof.stop()
    (upload,) = agent.wait_for(1)
    assert upload.tags["service"] == "tool"
    (mapping,) = upload.profile.mappings
    assert "/" not in mapping.filename
    assert b"hunter2" not in upload.body
    assert not any("hunter2" in text for text in upload.profile.strings)


def test_platform_project_becomes_a_tag(
    engine: str, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLATFORM_PROJECT", "abc123")
    conprof.start(agent_socket=agent.url)
    conprof.stop()
    assert agent.wait_for(1)[0].tags["project_id"] == "abc123"


def test_windows_follow_each_other(engine: str, tmp_path: Path) -> None:
    conprof.start(export_to=tmp_path.as_uri(), period=0.2)
    while len(list(tmp_path.glob("*.pb.gz"))) < 3:
        burn(0.05)
    conprof.stop()
    profiles = [check_bytes(path.read_bytes()) for path in sorted(tmp_path.glob("*.pb.gz"))]
    assert sum(profile.total("cpu") for profile in profiles) > 0.1e9
    spans = [(profile.time_nanos, profile.duration_nanos) for profile in profiles]
    for (start, duration), (later, _) in pairwise(spans):
        assert abs(start + duration - later) < 5e6, "windows neither overlap nor leave a gap"


def test_cpu_duration_shorter_than_the_period_leaves_pauses(engine: str, tmp_path: Path) -> None:
    conprof.start(export_to=tmp_path.as_uri(), period=0.6, cpu_duration=0.2)
    while len(list(tmp_path.glob("*.pb.gz"))) < 2:
        burn(0.05)
    paths = sorted(tmp_path.glob("*.pb.gz"))[:2]
    conprof.stop()
    first, second = (check_bytes(path.read_bytes()) for path in paths)
    assert 0.15e9 < first.duration_nanos < 0.5e9
    assert second.time_nanos - first.time_nanos > 0.5e9
    assert first.total("cpu") <= first.duration_nanos * 1.2


def test_start_again(engine: str, tmp_path: Path) -> None:
    options = {"export_to": tmp_path.as_uri(), "application_name": "a"}
    conprof.start(**options)
    conprof.start(**options)  # equal: a no-op
    with pytest.raises(AlreadyRunningError, match=r"application_name.*stop\(\) first") as caught:
        conprof.start(**{**options, "application_name": "b"})
    assert caught.value.differing == ("application_name",)
    assert conprof.is_running()
    conprof.stop()
    conprof.stop()
    conprof.start(**{**options, "application_name": "b"})
    conprof.stop()


def test_an_explicit_start_replaces_the_one_of_conprof_run(engine: str, tmp_path: Path) -> None:
    from conprof_core._profiler import start_launched

    start_launched()
    assert conprof.is_running()
    conprof.start(export_to=tmp_path.as_uri(), application_name="mine")
    burn(0.02)
    conprof.stop()
    assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == ["mine"]


def test_profiler_takes_the_keywords_of_blackfires_probe(engine: str, agent: FakeAgent) -> None:
    labels = {"a": "1"}
    profiler = Profiler("shop", agent.url, "", "", 45, 10, labels)
    profiler.start(stop_on_exit=False, profile_children=False)
    assert profiler.is_running
    assert profiler.config.period == 45
    profiler.stop()
    profiler.stop()
    assert agent.wait_for(1)[0].tags["a"] == "1"
    assert labels == {"a": "1"}, "the caller's mapping is left alone"


def test_a_profiler_stops_only_itself(engine: str) -> None:
    exporter = testing.MemoryExporter()
    first, second = Profiler(exporters=[exporter]), Profiler(period=7)
    first.start()
    second.stop()
    assert first.is_running
    assert not second.flush()
    assert first.flush()
    first.stop()
    assert exporter.is_shut_down
    assert [window.sequence for window in exporter.windows] == [0, 1]


def test_stats(engine: str) -> None:
    assert conprof.stats()["running"] is False
    exporter = testing.MemoryExporter()
    profiler = Profiler(exporters=[exporter])
    profiler.start()
    burn(0.2)
    assert conprof.flush()
    stats = conprof.stats()
    profiler.stop()
    assert stats["engine"] == engine
    assert stats["samples"] > 3
    assert 0.1e9 < stats["cpu_ns"] < 0.4e9
    assert (stats["windows"], stats["exported"], stats["queued"], stats["dropped"]) == (1, 1, 0, 0)
    assert stats["last_error"] == ""
    assert stats["internal_errors"] == {}
    assert stats["engine_stats"]


def test_flush_is_bounded_and_says_when_it_failed(engine: str) -> None:
    conprof.start(agent_socket="tcp://127.0.0.1:9")
    assert conprof.flush(0.5) is False
    stats = conprof.stats()
    assert stats["queued"] == 1
    assert "refused" in stats["last_error"].lower()
    conprof.stop()
    assert conprof.flush() is True, "nothing runs, nothing waits"


def test_kill_switch(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONPROF_DISABLED", "1")
    conprof.start()
    assert not conprof.is_running()
    with conprof.labels(a="1"):
        pass
    conprof.stop()


def test_a_bad_variable_is_logged_once(
    engine: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("BLACKFIRE_CONPROF_PERIOD", f"soon-{engine}")
    for _ in range(3):
        conprof.start(export_to=tmp_path.as_uri())
        conprof.stop()
    lines = [text for text in caplog.messages if f"soon-{engine}" in text]
    assert len(lines) == 1
    assert "BLACKFIRE_CONPROF_PERIOD" in lines[0]


def test_a_demanded_engine_that_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(self: object) -> None:
        raise EngineUnavailable("for the sake of this test")

    from conprof_core._engine.native import NativeEngine

    monkeypatch.setattr(NativeEngine, "__init__", unavailable)
    with pytest.raises(EngineUnavailableError, match="for the sake of this test"):
        conprof.start(engine="native")
    assert not conprof.is_running()
    monkeypatch.delenv("CONPROF_ENGINE", raising=False)
    with testing.capture():
        assert conprof.stats()["engine"] == "portable"
        assert conprof.stats()["engine_reason"] == "for the sake of this test"
    assert engine_module.choose("portable")[0].name == "portable"


def test_capture(engine: str) -> None:
    with testing.capture() as captured:
        with conprof.labels({"http.route": "/"}):
            burn(0.4)
        burn(0.2)
    (window,) = captured.windows
    check_bytes(window.profiles[0].pprof_gz)
    route = captured.cpu_ns("burn", **{"http.route": "/"})
    assert 0.3e9 < route < 0.5e9
    assert captured.cpu_ns("burn") > route
    assert captured.cpu_ns("no such function") == 0
    with pytest.raises(ConfigError):
        testing.capture(period="never").__enter__()


def test_many_threads_start_and_stop_at_once(engine: str) -> None:
    barrier = threading.Barrier(8)
    errors: list[BaseException] = []
    profiler = Profiler(exporters=[testing.MemoryExporter()])

    def work() -> None:
        try:
            barrier.wait(10)
            for _ in range(5):
                profiler.start()
                conprof.stats()
                conprof.flush(1)
                profiler.stop()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert not errors
    profiler.stop()


def test_an_outage_and_its_end(
    engine: str, agent: FakeAgent, caplog: pytest.LogCaptureFixture
) -> None:
    agent.refuse()
    conprof.start(agent_socket=agent.url, period=0.1)
    while conprof.stats()["queued"] < 3:
        burn(0.02)
    assert len([text for text in caplog.messages if "does not take profiles" in text]) == 1
    agent.listen()
    assert conprof.flush()
    conprof.stop()
    uploads = agent.wait_for(4)
    assert [upload.tags["profile_seq"] for upload in uploads[:4]] == ["0", "1", "2", "3"]
    starts = [upload.event["start"] for upload in uploads]
    assert starts == sorted(starts)
    assert len(set(starts)) == len(starts), "each window keeps its own time"
    assert len([text for text in caplog.messages if "takes profiles again" in text]) == 1


@pytest.mark.usefixtures("swallow_internal_errors")
def test_internal_errors_never_reach_the_application(
    engine: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from conprof_core import _window

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(_window.Window, "encode", broken)
    profiler = Profiler(exporters=[testing.MemoryExporter()])
    profiler.start()
    assert conprof.flush() is False
    conprof.flush()
    stats = conprof.stats()
    profiler.stop()
    assert stats["internal_errors"] == {"flush": 2}
    assert "on purpose" in stats["last_internal_error"]
    assert stats["lost_windows"] == 2
    assert len([record for record in caplog.records if "internal error" in record.message]) == 1
