"""``conprof tasks``: asks a running process, by its id or over HTTP."""

from __future__ import annotations

import http.server
import json
import os
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from conprof_core._engine.tasks import snapshot
from conprof_core._tasks_socket import TasksSocket, directories
from conprof_core._tasks_text import debug1, debug2
from conprof_core.cli.main import main
from tests.support.process import start_script

pytestmark = [
    pytest.mark.leaves_process,
    pytest.mark.skipif(not hasattr(os, "getuid"), reason="unix sockets"),
]

PROGRAM = """
import os, threading
import conprof_core as conprof

def planted(begun):
    begun.release()
    threading.Event().wait()

conprof.start(profile_types="cpu,tasks", export_to="file:///nowhere")
begun = threading.Semaphore(0)
for _ in range(4):
    threading.Thread(target=planted, args=(begun,), daemon=True, name="planted").start()
for _ in range(4):
    begun.acquire()
print("READY", flush=True)
threading.Event().wait(60)
os._exit(0)
"""


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A private place for sockets, with a path that is short enough for one."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
        yield Path(directory, "conprof")


def test_a_process_is_asked_by_its_id(
    runtime: Path, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with start_script(PROGRAM, env={"XDG_RUNTIME_DIR": str(runtime.parent)}) as process:
        process.wait_ready()
        assert main(["tasks", str(process.pid), "--json"]) == 0
        data = json.loads(capsys.readouterr().out)
        planted = [
            group
            for group in data["groups"]
            if "planted" in [frame["function"] for frame in group["frames"]]
        ]
        assert sum(group["count"] for group in planted) == 4
        assert main(["tasks", str(process.pid)]) == 0
        assert capsys.readouterr().out.count("planted(...)") == 4
        assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
        assert [path.name for path in runtime.iterdir()] == [f"{process.pid}.tasks"]


def test_who_cannot_be_asked_is_told(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", str(os.getpid())]) == 2
    assert "profile types" in capsys.readouterr().err
    assert main(["tasks", "shop"]) == 2
    assert "neither" in capsys.readouterr().err
    assert main(["tasks", "http://127.0.0.1:1"]) == 2
    assert "127.0.0.1:1" in capsys.readouterr().err
    assert not runtime.exists()


def test_the_socket_goes_with_the_session_and_survives_a_fork(runtime: Path) -> None:
    socket = TasksSocket(use_extension=False)
    socket.open()
    path = Path(socket.path)
    assert path.parent == runtime
    for _ in range(3):
        socket.prefork()
        socket.postfork_parent()
        assert main(["tasks", str(os.getpid())]) == 0
    socket.close()
    socket.close()
    assert not path.exists()


def test_a_place_that_others_can_enter_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "conprof_core._tasks_socket.directories", lambda uid: (str(tmp_path / "open"),)
    )
    (tmp_path / "open").mkdir(mode=0o755)
    socket = TasksSocket(use_extension=False)
    socket.open()
    assert socket.path == ""
    assert list((tmp_path / "open").iterdir()) == []
    (tmp_path / "open").rmdir()
    (tmp_path / "open").symlink_to(tmp_path)
    socket.open()
    assert socket.path == ""


def test_places_are_of_the_user() -> None:
    assert all("4711" in directory for directory in directories(4711))


class _Pprof(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        text = debug2(snapshot()) if "debug=2" in self.path else debug1(snapshot())
        self.send_response(200 if self.path.startswith("/debug/pprof/goroutine?") else 404)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Be silent."""


@pytest.fixture
def address() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Pprof) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_an_address_is_asked(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    for url in (address, address + "/debug/pprof/", address + "/debug/pprof/goroutine"):
        assert main(["tasks", url]) == 0
        assert "goroutine 1 [running" in capsys.readouterr().out
    assert main(["tasks", address, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["total"] == sum(group["count"] for group in data["groups"])
    functions = [frame["function"] for group in data["groups"] for frame in group["frames"]]
    assert "_Pprof.do_GET" in functions


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_a_fork_is_without_warning_and_has_a_socket_of_its_own(runtime: Path) -> None:
    source = """
import os, sys, time, threading, warnings
warnings.simplefilter("error")
import conprof_core as conprof
conprof.start(profile_types="cpu,tasks", export_to="file:///nowhere")
runtime = os.environ["XDG_RUNTIME_DIR"] + "/conprof"
pid = os.fork()
if not pid:
    time.sleep(0.01)
    os._exit(0 if f"{os.getpid()}.tasks" in os.listdir(runtime) else 9)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert f"{os.getpid()}.tasks" in os.listdir(runtime)
conprof.stop()
assert f"{os.getpid()}.tasks" not in os.listdir(runtime)
"""
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime.parent)}
    done = subprocess.run(
        [sys.executable, "-c", source], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
