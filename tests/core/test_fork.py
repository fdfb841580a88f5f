"""fork in every form: the child profiles itself as a new process, and the parent goes on."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from support.check_valid import check_bytes
from support.pprof_reader import Profile
from support.process import run_script

pytestmark = pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork here")

COMMON = """
import os, sys, time
import conprof_core as conprof

def burn(cpu_s):
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(500))

def in_child():
    burn(0.2)

def in_parent():
    burn(0.2)
"""


def profiles_by_pid(directory: Path) -> dict[int, list[Profile]]:
    """Return the checked profiles of each process, in order."""
    found: dict[int, list[Profile]] = {}
    for path in sorted(directory.glob("*.pb.gz")):
        pid = int(path.name.rsplit("-", 2)[1])
        found.setdefault(pid, []).append(check_bytes(path.read_bytes()))
    return found


def cpu_of(profiles: list[Profile], function: str) -> int:
    return sum(profile.by_function("cpu").get(function, 0) for profile in profiles)


def script(body: str, export_to: str) -> str:
    return f"{COMMON}\nEXPORT_TO = {export_to!r}\n{body}"


def test_os_fork(engine: str, tmp_path: Path) -> None:
    body = """
conprof.start(export_to=EXPORT_TO, application_name="shop")
in_parent()
pid = os.fork()
if pid == 0:
    in_child()
    print("child", os.getpid(), conprof.stats()["runtime_id"], conprof.stats()["process_id"])
    sys.exit(0)
os.waitpid(pid, 0)
in_parent()
print("parent", os.getpid(), conprof.stats()["runtime_id"], conprof.stats()["process_id"])
"""
    warnings_off = ("-W", "ignore::DeprecationWarning")  # see test_fork_warns_of_no_thread_of_ours
    result = run_script(script(body, tmp_path.as_uri()), options=warnings_off)
    lines = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines()}
    assert lines["child"][0] == lines["child"][2]
    assert lines["parent"][1] != lines["child"][1], "each process has an id of its own"
    found = profiles_by_pid(tmp_path)
    parent, child = found[int(lines["parent"][0])], found[int(lines["child"][0])]
    assert cpu_of(child, "in_child") > (0.18e9 if engine == "native" else 0.08e9)
    assert cpu_of(child, "in_parent") == 0, "what the parent did, the parent reports"
    assert cpu_of(parent, "in_parent") > (0.36e9 if engine == "native" else 0.2e9)
    assert cpu_of(parent, "in_child") == 0
    assert {name.name for name in tmp_path.glob("*-000000.pb.gz")} == {
        f"shop-{pid}-000000.pb.gz" for pid in found
    }
    assert not result.stderr


def test_fork_from_a_thread_while_others_work_and_label(engine: str, tmp_path: Path) -> None:
    body = """
import threading
conprof.start(export_to=EXPORT_TO, cpu_profile_rate=500)
stop = threading.Event()

def busy():
    while not stop.is_set():
        with conprof.labels(job="busy"):
            sum(range(500))

workers = [threading.Thread(target=busy) for _ in range(3)]
for worker in workers:
    worker.start()

def fork():
    for _ in range(10):
        pid = os.fork()
        if pid == 0:
            with conprof.labels(job="forked"):
                in_child()
            conprof.stop()
            os._exit(0 if threading.active_count() == 1 else 1)
        assert os.waitpid(pid, 0)[1] == 0
thread = threading.Thread(target=fork)
thread.start()
thread.join()
stop.set()
print(sum(worker.is_alive() for worker in workers))
"""
    warnings_off = ("-W", "ignore::DeprecationWarning")  # the program itself forks with threads
    run_script(script(body, tmp_path.as_uri()), options=warnings_off)
    found = profiles_by_pid(tmp_path)
    children = [profiles for profiles in found.values() if cpu_of(profiles, "in_child")]
    assert len(children) == 10
    for profiles in children:
        assert sum(p.by_label("job", "cpu").get("forked", 0) for p in profiles) > 0.1e9
        assert sum(p.by_label("job", "cpu").get("busy", 0) for p in profiles) == 0


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(engine: str, tmp_path: Path, method: str) -> None:
    path = tmp_path / "program.py"
    out = tmp_path / "out"
    body = f"""
import multiprocessing
if __name__ in ("__main__", "__mp_main__"):
    conprof.start(export_to=EXPORT_TO, application_name="shop")
if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    process = context.Process(target=in_child)
    process.start()
    process.join()
    with context.Pool(1) as pool:
        print(process.pid, *pool.map(os.getpgid, [0]))
        pool.close()
        pool.join()
    assert process.exitcode == 0
"""
    path.write_text(script(body, out.as_uri()))
    result = run_script(path, options=("-W", "ignore::DeprecationWarning"), timeout_s=60)
    pid = int(result.stdout.split()[0])
    assert cpu_of(profiles_by_pid(out)[pid], "in_child") > 0.14e9, "its last window was sent"
    assert not result.stderr


def test_queued_windows_are_sent_once_and_by_the_parent(engine: str, tmp_path: Path) -> None:
    body = """
from conprof_core import testing
from conprof_core.exporters import Outcome, Verdict
exporter = testing.MemoryExporter()
exporter.outcome = Outcome(Verdict.RETRY, "away")
profiler = conprof.Profiler(exporters=[exporter])
profiler.start()
conprof.flush(1)
assert conprof.stats()["queued"] == 1
pid = os.fork()
exporter.outcome = Outcome(Verdict.DELIVERED)
if pid == 0:
    assert conprof.stats()["queued"] == 0
    conprof.flush(1)
    assert [window.sequence for window in exporter.windows] == [0]
    assert exporter.windows[0].process_id == os.getpid()
    conprof.stop()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
conprof.flush(1)
assert [window.sequence for window in exporter.windows] == [0, 1]
profiler.stop()
"""
    run_script(script(body, tmp_path.as_uri()))


def test_children_can_be_left_out(engine: str, tmp_path: Path) -> None:
    body = """
conprof.Profiler(export_to=EXPORT_TO).start(profile_children=False)
pid = os.fork()
if pid == 0:
    assert not conprof.is_running()
    burn(0.05)
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert conprof.is_running()
"""
    run_script(script(body, tmp_path.as_uri()))
    assert len(profiles_by_pid(tmp_path)) == 1


def test_grandchildren_and_a_stopped_parent(engine: str, tmp_path: Path) -> None:
    body = """
conprof.start(export_to=EXPORT_TO)
conprof.stop()
if os.fork() == 0:
    assert not conprof.is_running()
    conprof.start(export_to=EXPORT_TO)
    if os.fork() == 0:
        assert conprof.is_running()
        in_child()
        sys.exit(0)
    assert os.wait()[1] == 0
    sys.exit(0)
assert os.wait()[1] == 0
"""
    run_script(script(body, tmp_path.as_uri()))
    found = profiles_by_pid(tmp_path)
    assert len(found) == 3
    assert sum(cpu_of(profiles, "in_child") > 0.18e9 for profiles in found.values()) == 1


def test_fork_during_an_upload_that_hangs(engine: str, tmp_path: Path) -> None:
    body = """
import socket, threading
server = socket.create_server(("127.0.0.1", 0))
conprof.start(agent_socket="tcp://127.0.0.1:%d" % server.getsockname()[1], upload_timeout=20)
flusher = threading.Thread(target=conprof.flush, args=(20,), daemon=True)
flusher.start()
connection, _ = server.accept()  # the upload is under way and gets no answer
began = time.monotonic()
pid = os.fork()
if pid == 0:
    assert conprof.is_running()
    assert conprof.stats()["queued"] == 0
    server.close()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
print(time.monotonic() - began)
connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
flusher.join(20)
assert conprof.stats()["exported"] == 1
server.close()
os._exit(0)
"""
    result = run_script(
        script(body, tmp_path.as_uri()), options=("-W", "ignore::DeprecationWarning")
    )
    assert float(result.stdout) < 5, "the fork did not wait for the upload"


def test_fork_warns_of_no_thread_of_ours(engine: str, tmp_path: Path) -> None:
    if sys.version_info[:2] == (3, 13) and engine == "portable":
        pytest.skip("3.13 counts threads when the hooks have started them again")
    body = """
conprof.start(export_to=EXPORT_TO)
burn(0.05)
for _ in range(5):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    burn(0.01)
assert conprof.stats()["running"]
"""
    result = run_script(script(body, tmp_path.as_uri()), options=("-W", "always"))
    assert not re.search("multi-threaded", result.stderr), result.stderr


def test_a_fork_without_hooks_is_noticed_at_the_next_start(engine: str, tmp_path: Path) -> None:
    """Before 3.13 the portable engine cannot run there, and says so."""
    can_run = engine == "native" or sys.version_info >= (3, 13)
    body = f"""
CAN_RUN = {can_run}
conprof.start(export_to=EXPORT_TO)
in_parent()
# Hidden from the hooks, which then do nothing. A fork that really runs none leaves the interpreter
# itself in a state that cannot be relied on.
session, conprof._profiler._state.session = conprof._profiler._state.session, None
pid = os.fork()
conprof._profiler._state.session = session
if pid == 0:
    assert conprof.stats()["process_id"] != os.getpid()
    conprof.start(export_to=EXPORT_TO)
    assert conprof.is_running() == CAN_RUN
    assert not CAN_RUN or conprof.stats()["process_id"] == os.getpid()
    in_child()
    conprof.stop()
    sys.stderr.flush()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
conprof.stop()
"""
    warnings_off = ("-W", "ignore::DeprecationWarning")
    result = run_script(script(body, tmp_path.as_uri()), options=warnings_off)
    found = profiles_by_pid(tmp_path)
    assert sorted(cpu_of(profiles, "in_child") > 0.15e9 for profiles in found.values()) == (
        [False, True] if can_run else [False]
    )
    assert ("CPython knows nothing of the fork" in result.stderr) != can_run
