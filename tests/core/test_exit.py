"""How a process ends: the last window is sent, and exit is never delayed beyond its bound."""

from __future__ import annotations

import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.check_valid import check_bytes
from support.fake_agent import FakeAgent, Fault
from support.process import run_script, start_script

START = """
import os, sys, threading, time
import conprof_core as conprof

def burn(cpu_s):
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(500))

conprof.start(agent_socket=sys.argv[1], application_name="shop")
"""


def test_the_last_window_is_sent_at_exit(engine: str, agent: FakeAgent) -> None:
    result = run_script(START + "burn(0.2)\n", agent.url)
    (upload,) = agent.wait_for(1)
    assert upload.profile.by_function()["burn"] > 0.15e9
    assert not result.stderr


@pytest.mark.parametrize("ending", ["raise SystemExit(3)", "1/0", "sys.exit('bye')"])
def test_whatever_ends_the_program(engine: str, agent: FakeAgent, ending: str) -> None:
    result = run_script(f"{START}burn(0.1)\n{ending}", agent.url, check=False)
    assert result.returncode == (3 if "3" in ending else 1)
    agent.wait_for(1)


def test_exit_with_daemon_threads_that_work(engine: str, agent: FakeAgent) -> None:
    body = """
def work():
    while True:
        with conprof.labels(job="daemon"):
            burn(0.01)
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
burn(0.1)
"""
    # The portable engine competes for the GIL with all of them: on a busy machine the two seconds
    # that exit may take are not always enough.
    for _ in range(3 if engine == "native" else 9):
        result = run_script(START + body, agent.url)
        assert not result.stderr
        if len(agent.accepted) >= 3:
            break
    for upload in agent.wait_for(3):
        assert upload.profile.by_label("job").get("daemon", 0) > 0


def test_exit_waits_two_seconds_for_an_agent_that_hangs(engine: str, agent: FakeAgent) -> None:
    agent.always = Fault("hang", seconds=60)
    body = """
import atexit
conprof.stop()
began = None
def measure():
    sys.stdout.write(str(time.monotonic() - began))
# Handlers run in reverse: what is registered before start() runs after its handler.
atexit.register(measure)
atexit.unregister(conprof._profiler._state.at_exit)
atexit.register(conprof._profiler._state.at_exit)
conprof.start(agent_socket=sys.argv[1], upload_timeout=30)
began = time.monotonic()
"""
    result = run_script(
        START.replace("conprof.start(", "conprof.start(upload_timeout=0.2, ") + body, agent.url
    )
    assert 1.5 < float(result.stdout) < 6
    assert result.stderr.count("\n") <= 2


def test_stop_is_bounded_by_the_upload_timeout(engine: str, agent: FakeAgent) -> None:
    agent.always = Fault("slow", seconds=0.05)
    body = """
conprof.stop()
conprof.start(agent_socket=sys.argv[1], upload_timeout=0.5)
began = time.monotonic()
conprof.stop()
print(time.monotonic() - began)
os._exit(0)
"""
    result = run_script(
        START.replace("conprof.start(", "conprof.start(upload_timeout=0.5, ") + body, agent.url
    )
    assert float(result.stdout) < 5


def test_no_agent_is_one_line_at_exit(engine: str) -> None:
    result = run_script(START + "burn(0.05)", "unix:///nowhere/agent.sock")
    assert result.stderr.count("\n") == 1
    assert "ERROR conprof.export" in result.stderr
    assert "No such file" in result.stderr


def test_stop_on_exit_can_be_left_out(engine: str, agent: FakeAgent) -> None:
    body = """
conprof.stop()
conprof.Profiler(agent_socket=sys.argv[1]).start(stop_on_exit=False)
"""
    run_script(START + body, agent.url)
    assert len(agent.wait_for(1)) == 1, "only what stop() sent"


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM here")
def test_sigterm_ends_the_process_as_ever(engine: str, agent: FakeAgent) -> None:
    body = """
burn(0.2)
print("READY", flush=True)
while True:
    time.sleep(0.05)
"""
    with start_script(START + body, agent.url) as process:
        process.wait_ready()
        process.signal(signal.SIGTERM)
        result = process.finish(20)
    assert result.returncode == -signal.SIGTERM
    if engine == "native":
        assert agent.wait_for(1)[0].profile.by_function()["burn"] > 0.15e9


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM here")
def test_a_sigterm_handler_of_the_program_is_left_alone(engine: str, agent: FakeAgent) -> None:
    body = """
import signal
def stop(number, frame):
    print("handled", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("READY", flush=True)
while True:
    time.sleep(0.05)
"""
    with start_script(START + body, agent.url) as process:
        process.wait_ready()
        process.signal(signal.SIGTERM)
        result = process.finish(20).check()
    assert "handled" in result.stdout
    agent.wait_for(1)


def test_stop_in_a_signal_handler_during_a_flush(engine: str, agent: FakeAgent) -> None:
    body = """
import signal
signal.signal(signal.SIGALRM, lambda number, frame: conprof.stop())
signal.setitimer(signal.ITIMER_REAL, 0.01)
deadline = time.monotonic() + 20
while conprof.is_running() and time.monotonic() < deadline:
    conprof.flush(1)
    conprof.stats()
assert not conprof.is_running()
"""
    run_script(START + body, agent.url, timeout_s=60)


def test_exec_replaces_the_program_cleanly(engine: str, agent: FakeAgent) -> None:
    body = """
burn(0.1)
os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(0.3); print('new')"])
"""
    assert run_script(START + body, agent.url).stdout == "new\n"


def test_start_in_an_atexit_handler_does_no_harm(engine: str, tmp_path: Path) -> None:
    body = f"""
import atexit, conprof_core as conprof
atexit.register(lambda: conprof.start(export_to={tmp_path.as_uri()!r}))
"""
    result = run_script(body)
    assert "Traceback" not in result.stderr


def test_a_short_program_with_files(engine: str, tmp_path: Path) -> None:
    body = f"import conprof_core as c; c.start(export_to={tmp_path.as_uri()!r}); sum(range(10**7))"
    result = run_script(body)
    (path,) = tmp_path.iterdir()
    assert check_bytes(path.read_bytes()).total("cpu") > 0
    assert path.name.startswith("python-")
    assert not result.stderr


@pytest.mark.parametrize("order", ["before", "after"])
def test_gevent(engine: str, agent: FakeAgent, order: str) -> None:
    if find_spec("gevent") is None:
        pytest.skip("gevent is not installed")
    patch = "from gevent import monkey; monkey.patch_all()\n"
    body = """
import gevent
def work(n):
    with conprof.labels(job=str(n)):
        for _ in range(10):
            burn(0.01)
            gevent.sleep(0)
gevent.joinall([gevent.spawn(work, n) for n in range(3)])
conprof.stop()
"""
    source = patch + START + body if order == "before" else START + patch + body
    result = run_script(source, agent.url, options=("-W", "ignore"))
    profile = agent.wait_for(1)[0].profile
    assert profile.by_function()["burn"] > 0.25e9
    labelled = {name: cpu for name, cpu in profile.by_label("job").items() if name}
    if engine == "native":
        assert set(labelled) == {"0", "1", "2"}
    else:
        assert not labelled, "no label is better than a wrong one"
    assert not result.stderr
