"""Many destinations at once: each with its own queue and health, and none in the way of another."""

from __future__ import annotations

import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Self

import pytest
from support.check_valid import check_directory
from support.fake_agent import FakeAgent, Fault
from support.process import run_script

import conprof_core as conprof
from conprof_core.exporters import queue as queue_module

from .conftest import burn


class Receiver:
    """Takes whatever is posted, as a Pyroscope or a Collector would, and notes the paths."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                receiver.paths.append(self.path)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(30)
        self._server.server_close()


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline, f"{what}: {conprof.stats()}"
        burn(0.01)


def health() -> dict[str, dict[str, Any]]:
    return {row["exporter"].split()[0]: row for row in conprof.stats()["exporters"]}


@pytest.mark.parametrize(
    "fault", [Fault("slow", seconds=0.05), Fault("hang", seconds=120)], ids=["slow-loris", "hangs"]
)
def test_one_that_hangs_delays_no_other(
    engine: str, agent: FakeAgent, tmp_path: Path, fault: Fault
) -> None:
    agent.always = fault
    with Receiver() as pyroscope, Receiver() as collector:
        conprof.start(
            export_to=[
                "blackfire:",
                tmp_path.as_uri(),
                f"pyroscope+http://{pyroscope.address}",
                f"otlp+http://{collector.address}",
            ],
            agent_socket=agent.url,
            period=0.3,
            upload_timeout=120,
        )
        try:
            wait_for(lambda: len(list(tmp_path.glob("*.pb.gz"))) >= 5, "files come")
            wait_for(lambda: len(pyroscope.paths) >= 5, "pushes come")
            wait_for(lambda: len(collector.paths) >= 5, "requests come")
            # The first upload to the agent is still under way: nobody waited for it.
            assert len(agent.uploads) <= 1
            state = health()
            assert state["Blackfire"]["exported"] == 0
            assert state["Blackfire"]["queued"] >= 3, "what waits behind it is kept"
            for name in ("directory", "Pyroscope", "OTLP"):
                assert state[name]["exported"] >= 4
                assert state[name]["available"] is True
                assert state[name]["queued"] <= 1
                assert state[name]["last_error"] == ""
        finally:
            agent.always = None
            agent.refuse()  # ends the answer that trickles
            conprof.stop()
    sequences = [int(path.name.split("-")[-1].split(".")[0]) for path in tmp_path.glob("*.pb.gz")]
    assert sorted(sequences) == list(range(len(sequences))), "the last one too"
    assert check_directory(tmp_path)


def test_each_has_its_own_health(
    engine: str, agent: FakeAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "BACKOFF_FIRST_S", 0.02)
    monkeypatch.setattr(queue_module, "BACKOFF_LONGEST_S", 0.3)
    blocked = tmp_path / "file"
    blocked.write_text("in the way of a directory")
    with Receiver() as pyroscope:
        agent.refuse()
        conprof.start(
            export_to=["blackfire:", blocked.as_uri(), f"pyroscope+http://{pyroscope.address}"],
            agent_socket=agent.url,
            period=0.2,
        )
        wait_for(lambda: health()["Blackfire"]["queued"] >= 3, "the agent is away")
        wait_for(lambda: len(pyroscope.paths) >= 3, "Pyroscope is there")
        state = health()
        assert state["Blackfire"]["available"] is False
        assert "refused" in state["Blackfire"]["last_error"].lower()
        assert state["directory"]["available"] is False
        assert state["Pyroscope"]["available"] is True
        agent.listen()
        wait_for(lambda: health()["Blackfire"]["available"], "its retries are made on time")
        wait_for(lambda: health()["Blackfire"]["queued"] <= 1, "and all is delivered")
        assert health()["directory"]["available"] is False
        conprof.stop()
    sequences = [int(upload.tags["profile_seq"]) for upload in agent.accepted]
    assert sequences == sorted(sequences)


def test_the_last_window_reaches_those_that_are_well(
    engine: str, agent: FakeAgent, tmp_path: Path
) -> None:
    """At exit there are two seconds in all: one that hangs must not take them from the others."""
    agent.always = Fault("hang", seconds=60)
    source = f"""
        import time
        import requests  # what its import takes on a busy machine is not the point here
        import conprof_core as conprof
        conprof.start(
            export_to=["blackfire:", "pyroscope+http://{{}}", {tmp_path.as_uri()!r}],
            agent_socket={agent.url!r},
        )
        until = time.thread_time() + 0.2
        while time.thread_time() < until:
            sum(range(500))
    """
    with Receiver() as pyroscope:
        run_script(source.replace("{}", pyroscope.address))
        assert pyroscope.paths
    (profile,) = check_directory(tmp_path)
    assert profile.total("cpu") > 0.1e9
