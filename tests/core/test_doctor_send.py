"""``conprof doctor --send``: each of many destinations is proved, and none hides another."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from support.check_valid import check_directory
from support.fake_agent import FakeAgent, Fault, answer
from support.process import Result, run_command


def doctor(*arguments: str, **env: str) -> Result:
    command = [sys.executable, "-m", "conprof_core.cli.main", "doctor", "--send", *arguments]
    return run_command(command, env=env, check=False, timeout_s=90)


def report(**env: str) -> tuple[int, list[dict[str, Any]], list[str], str]:
    result = doctor("--json", **env)
    data = json.loads(result.stdout)
    return result.returncode, data["sent"], data["problems"], result.stdout


class Server:
    """Answers each POST with one status and body; ``got`` has the paths."""

    def __init__(self, status: int = 200, body: bytes = b"") -> None:
        self.got: list[tuple[str, str | None]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                server.got.append((self.path, self.headers["Authorization"]))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(30)
        self._server.server_close()


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    made: list[Server] = []
    yield made
    for server in made:
        server.close()


def test_all_four_take_it(
    engine: str, agent: FakeAgent, servers: list[Server], tmp_path: Path
) -> None:
    servers += [Server(), Server()]
    pyroscope, collector = servers
    status, sent, problems, text = report(
        CONPROF_EXPORT_TO=(
            f"blackfire:,{tmp_path.as_uri()},pyroscope+http://me:hunter2@{pyroscope.address},"
            f"otlp+http://{collector.address}"
        ),
        BLACKFIRE_AGENT_SOCKET=agent.url,
        CONPROF_ENGINE=engine,
        BLACKFIRE_CONPROF_APP_NAME="shop",
        # None of this may keep the doctor from making a profile.
        CONPROF_ENABLED="no",
        CONPROF_SPOOL_DIR=str(tmp_path / "spool"),
        CONPROF_CONTROL_SIGNAL="USR2",
        BLACKFIRE_CONPROF_CPU_DURATION="0.1",
    )
    assert [row["delivered"] for row in sent] == [True] * 4, sent
    assert [row["hint"] for row in sent] == [""] * 4
    assert all(row["bytes"] > 100 and "as service shop" in row["detail"] for row in sent)
    assert (status, len(problems)) == (1, 1), "the one problem is the standby"
    assert "standby" in problems[0]
    (upload,) = agent.wait_for(1)
    assert upload.tags["service"] == "shop"
    assert pyroscope.got[0][0].startswith("/push.v1")
    assert pyroscope.got[0][1], "with credentials"
    assert collector.got[0][0] == "/v1development/profiles"
    assert check_directory(tmp_path)
    assert not (tmp_path / "spool").exists()
    assert "hunter2" not in text


def test_each_failure_is_said_with_a_hint_and_hides_no_other(
    agent: FakeAgent, servers: list[Server], tmp_path: Path
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    # A partial success that rejects three profiles, as opentelemetry-proto defines it.
    servers += [Server(401), Server(200, b"\x0a\x08\x08\x03\x12\x04full"), Server(200)]
    refusing, partial, good = servers
    agent.always = Fault("hang", seconds=60)
    status, sent, problems, _ = report(
        CONPROF_EXPORT_TO=(
            f"blackfire:,{blocked.as_uri()},pyroscope+http://{refusing.address},"
            f"otlp+http://{partial.address},pyroscope+http://127.0.0.1:9,"
            f"{tmp_path.as_uri()},otlp+http://{good.address}"
        ),
        BLACKFIRE_AGENT_SOCKET=agent.url,
        BLACKFIRE_CONPROF_UPLOAD_TIMEOUT="2",
    )
    assert status == 1
    assert [row["delivered"] for row in sent] == [False] * 5 + [True] * 2, sent
    for row in sent[:5]:
        assert row["hint"], row
        assert any(row["detail"] in problem and row["hint"] in problem for problem in problems)
    assert "user and password" in sent[2]["hint"]
    assert "3 profiles were rejected" in sent[3]["detail"]
    assert "4040" in sent[4]["hint"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (answer(401), "BLACKFIRE_SERVER_ID"),
        (answer(503), "not ready"),
        (answer(429), "limits how much"),
        (answer(404), "2.13"),
    ],
)
def test_what_an_agent_may_answer(agent: FakeAgent, fault: Fault, words: str) -> None:
    agent.always = fault
    result = doctor(BLACKFIRE_AGENT_SOCKET=agent.url)
    assert result.returncode == 1
    assert "not delivered" in result.stdout
    assert words in result.stdout
    assert "Traceback" not in result.stderr


def test_an_engine_that_cannot_run_is_said_of_each(tmp_path: Path) -> None:
    code = """
import sys
from conprof_core._engine import native
def no(self): raise native.EngineUnavailable("for this test")
native.NativeEngine.__init__ = no
from conprof_core.cli.main import main
sys.exit(main(["doctor", "--send", "--json"]))
"""
    env = {"CONPROF_ENGINE": "native", "CONPROF_EXPORT_TO": f"{tmp_path.as_uri()},blackfire:"}
    result = run_command([sys.executable, "-c", code], env=env, check=False)
    data = json.loads(result.stdout)
    assert result.returncode == 1
    assert all("for this test" in row["detail"] for row in data["sent"])


def test_the_control_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "control"
    path.write_text("enabled = no\ncpu_profile_rate = 50\n")
    env = {"CONPROF_CONTROL_FILE": str(path), "CONPROF_CONTROL_SIGNAL": "SIGUSR1"}
    result = doctor("--json", CONPROF_EXPORT_TO=tmp_path.as_uri(), **env)
    control = json.loads(result.stdout)["control"]
    assert control["enabled"] is False
    assert control["cpu_profile_rate"] == 50
    assert control["sources"]["cpu_profile_rate"] == f"file {path}"
    people = doctor(CONPROF_EXPORT_TO=tmp_path.as_uri(), **env).stdout
    assert "standby" in people
    assert "cpu_profile_rate = 50" in people
    assert "SIGUSR1 turns profiling off and on" in people
    path.write_text("nonsense")
    result = doctor(CONPROF_EXPORT_TO=tmp_path.as_uri(), **env)
    assert result.returncode == 1
    assert "is not followed: line 1" in result.stdout
