"""The drain is woken whatever is refused, comes back when it is gone, and nobody waits for ever."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from support.process import run_script, start_script

COMMON = """
import ctypes, os, resource, signal, sys, threading, time
import conprof_core as conprof
from conprof_core import _native

def burn(cpu_s):
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(500))

def tid_of(name):
    for tid in os.listdir("/proc/self/task"):
        if open(f"/proc/self/task/{tid}/comm").read().strip() == name:
            return int(tid)
    return None
"""


@pytest.mark.parametrize("limit", [0, 10, 40])
def test_fork_and_stop_with_no_signal_left_to_queue(limit: int) -> None:
    """The limit counts for a user: any process of his may have used it up."""
    run_script(
        f"""{COMMON}
os.environ["CONPROF_ENGINE"] = "native"
conprof.start(export_to="none:")
done = threading.Event()
for _ in range(60):
    threading.Thread(target=done.wait, daemon=True).start()
resource.setrlimit(resource.RLIMIT_SIGPENDING, ({limit}, {limit}))
for _ in range(20):
    threading.Thread(target=done.wait, daemon=True).start()
for _ in range(2):
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    took = time.monotonic() - began
    assert os.waitpid(pid, 0)[1] == 0
    assert took < 3, took
    time.sleep(0.2)
burn(0.3)
assert not _native.stats()["drain_missing"]
began = time.monotonic()
conprof.flush(5)
assert conprof.stats()["samples"] > 0 or {limit} == 0
conprof.stop()
took = time.monotonic() - began
assert took < 5, took
""",
        options=("-W", "ignore::DeprecationWarning"),
        timeout_s=40,
    )


def test_without_a_timer_the_drain_looks_once_a_second() -> None:
    run_script(
        f"""{COMMON}
os.environ["CONPROF_ENGINE"] = "native"
conprof.start(export_to="none:")
hard = resource.getrlimit(resource.RLIMIT_SIGPENDING)[1]
resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, hard))
pid = os.fork()  # the drain behind it gets no timer
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
until = time.monotonic() + 20
while _native.stats()["drain_polls"] < 2 and time.monotonic() < until:
    time.sleep(0.1)
assert _native.stats()["drain_polls"] >= 2
resource.setrlimit(resource.RLIMIT_SIGPENDING, (hard, hard))
time.sleep(2.5)
polls = _native.stats()["drain_polls"]
time.sleep(2.5)
assert _native.stats()["drain_polls"] <= polls + 1, "it has a timer again"
conprof.stop()
""",
        options=("-W", "ignore::DeprecationWarning"),
        timeout_s=60,
    )


PTRACE_ATTACH, PTRACE_DETACH = 16, 17


def _ptrace(request: int, tid: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    return int(libc.ptrace(request, tid, None, None))


@pytest.mark.parametrize("ending", ["comes back", "stop", "fork"])
def test_a_drain_that_hangs(ending: str) -> None:
    """A debugger holds that thread alone: it is given up in time, named, and another begins."""
    body = f"""{COMMON}
os.environ["CONPROF_ENGINE"] = "native"
conprof.start(export_to="none:", period=1)
burn(0.1)
print("TID", tid_of("conprof-drain"), flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
if {ending!r} == "stop":
    began = time.monotonic()
    conprof.stop()
    assert time.monotonic() - began < 2.1 + 2, time.monotonic() - began
elif {ending!r} == "fork":
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        burn(0.1)
        assert not _native.stats()["drain_missing"] and _native.stats()["drain_cpu_ns"]
        conprof.stop()
        os._exit(0)
    assert time.monotonic() - began < 2.1 + 2, time.monotonic() - began
    assert os.waitpid(pid, 0)[1] == 0
    time.sleep(0.1)
    assert conprof.stats()["engine_stats"]["waits_given_up"] == 1
else:
    until = time.monotonic() + 40
    while not _native.stats()["drain_lost"] and time.monotonic() < until:
        with conprof.labels(job="j"):
            burn(0.01)
        time.sleep(0.1)
if {ending!r} != "stop":
    assert {ending!r} == "fork" or _native.stats()["drain_lost"] == 1, _native.stats()
    windows = conprof.stats()["windows"]
    until = time.monotonic() + 20
    while conprof.stats()["windows"] < windows + 2 and time.monotonic() < until:
        burn(0.02)
        time.sleep(0.05)
    assert conprof.stats()["windows"] >= windows + 2
    conprof.stop()
print("DONE", flush=True)
time.sleep(0.5)
os._exit(0)
"""
    go = Path(tempfile.gettempdir(), f"drain-{os.getpid()}-{time.monotonic_ns()}")
    options = ("-W", "ignore::DeprecationWarning")
    try:
        with start_script(body, str(go), options=options) as process:
            tid = int(process.wait_for_line("TID").split()[1])
            if _ptrace(PTRACE_ATTACH, tid) != 0:
                pytest.skip("this machine does not let us hold a thread")
            os.waitpid(tid, 0x40000000)  # __WALL
            go.touch()
            process.wait_for_line("DONE", 80)
            _ptrace(PTRACE_DETACH, tid)
            result = process.finish(20).check()
    finally:
        go.unlink(missing_ok=True)
    if ending == "comes back":
        assert "had gone or hung" in result.stderr, result.describe()


def test_sigterm_as_pid_1_sends_the_window_and_goes_on(tmp_path: Path) -> None:
    """Its default action spares pid 1: so must we."""
    result = run_script(
        f"""{COMMON}
os.environ["CONPROF_ENGINE"] = "native"
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x20000000) != 0:  # CLONE_NEWPID
    print("REFUSED")
    sys.exit()
pid = os.fork()
if pid:
    status = os.waitpid(pid, 0)[1]
    assert status == 0, status
    sys.exit()
assert os.getpid() == 1
interval = sys.getswitchinterval()
conprof.start(export_to={tmp_path.as_uri()!r}, application_name="one", period=600)
for number in range(1, 4):
    burn(0.1)
    os.kill(1, signal.SIGTERM)
    until = time.monotonic() + 20
    while conprof.stats()["exported"] < number and time.monotonic() < until:
        time.sleep(0.02)
    assert conprof.stats()["exported"] == number, conprof.stats()
    assert tid_of("conprof-drain"), "the drain goes on"
    time.sleep(0.1)
assert sys.getswitchinterval() == interval
conprof.stop()
os._exit(0)
"""
    )
    if "REFUSED" in result.stdout:
        pytest.skip("this user may not make a namespace of processes")
    assert len(list(tmp_path.glob("*.pb.gz"))) == 4


@pytest.mark.parametrize("how", ["ignored", "handled", "handled while it is sent"])
def test_a_sigterm_that_belongs_to_the_application(how: str, tmp_path: Path) -> None:
    run_script(
        f"""{COMMON}
os.environ["CONPROF_ENGINE"] = "native"
came = []
if {how!r} == "ignored":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
elif {how!r} == "handled":
    signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
conprof.start(export_to={tmp_path.as_uri()!r}, period=600)
burn(0.1)
if {how!r} == "handled while it is sent":
    profiler = conprof._profiler._state.session
    def slow(timeout_s):
        signal_set.wait(5)
    signal_set = threading.Event()
    profiler.loop.terminate = slow
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
    signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    signal_set.set()
else:
    os.kill(os.getpid(), signal.SIGTERM)
until = time.monotonic() + 5
while not came and {how!r} != "ignored" and time.monotonic() < until:
    time.sleep(0.01)
time.sleep(0.3)
assert came == ([] if {how!r} == "ignored" else [signal.SIGTERM]), came
assert tid_of("conprof-drain")
burn(0.1)
conprof.stop()
assert len(os.listdir({str(tmp_path)!r})) == 1
"""
    )


def test_sigterm_ends_a_process_that_blocks_it_meanwhile(tmp_path: Path) -> None:
    body = f"""{COMMON}
os.environ["CONPROF_ENGINE"] = "native"
conprof.start(export_to={tmp_path.as_uri()!r}, period=600)
burn(0.1)
loop = conprof._profiler._state.session.loop
terminate, is_blocked = loop.terminate, threading.Event()
def slow(timeout_s):
    is_blocked.wait(2)
    terminate(timeout_s)
loop.terminate = slow
os.kill(os.getpid(), signal.SIGTERM)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
is_blocked.set()
time.sleep(30)
"""
    result = run_script(body, check=False)
    assert result.returncode == -signal.SIGTERM, result.describe()
    assert result.seconds < 20
    assert len(list(tmp_path.glob("*.pb.gz"))) == 1


def test_a_header_that_nobody_reserved_is_not_believed(tmp_path: Path) -> None:
    """``ring.c`` alone, against a writer that comes late: see ``ring_late.c``."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    here = Path(__file__).parent
    sources = here.parents[1] / "conprof_core" / "_native"
    if compiler is None or not (sources / "ring.c").exists():
        pytest.skip("no C compiler on this machine, or no sources")
    program = tmp_path / "ring_late"
    files = [here / "ring_late.c", sources / "ring.c", sources / "own_tid.c"]
    flags = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *flags, "-o", program, *files], check=True, timeout=60)
    result = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout
