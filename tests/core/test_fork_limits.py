"""Forks behind which no thread can be had, and forks that run no hooks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.check_valid import check_bytes
from support.process import run_script

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="uses limits and calls of Linux")

COMMON = """
import ctypes, os, resource, sys, threading, time
import conprof_core as conprof

def burn(cpu_s):
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(500))

def in_child():
    burn(0.3)
"""

# In a process that may not have a thread more. As root there is no such limit.
NO_THREADS = """
def become_limited():
    import logging
    conprof.flush(5)  # what is imported later is imported: the other user may not be able to
    if os.getuid() == 0:
        os.setresuid(64117, 64117, 64117)

class Limit:
    kind = resource.RLIMIT_NPROC
    soft, hard = resource.getrlimit(kind)
    def set(self):
        resource.setrlimit(self.kind, (1, self.hard))
    def lift(self):
        resource.setrlimit(self.kind, (self.soft, self.hard))

limit = Limit()

def missing():
    stats = conprof.stats()["engine_stats"]
    return stats.get("drain_missing", stats.get("threads_missing"))

def comes_back():
    # Where labels change and threads begin it is tried again, no more than once a second.
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with conprof.labels(job="j"):
            burn(0.02)
        if not missing():
            break
        time.sleep(0.1)
    assert not missing()
    before = conprof.stats()["samples"]
    burn(0.2)
    conprof.flush(10)
    assert conprof.stats()["samples"] > before
    assert not conprof.stats()["internal_errors"], conprof.stats()
    conprof.stop()

def check_missing():
    try:
        threading.Thread(target=int).start()
    except RuntimeError:
        pass
    else:
        raise SystemExit("the premise: no thread can be had")
    burn(0.1)
    assert missing() and conprof.is_running(), conprof.stats()
"""


@pytest.mark.parametrize("side", ["parent", "child"])
def test_no_thread_can_be_had_behind_a_fork(engine: str, side: str) -> None:
    """It says so once, and is back when there are threads again."""
    body = f"""
SIDE = {side!r}
{NO_THREADS}
# Before ours: it runs first behind the fork, and last before it.
os.register_at_fork(**{{"after_in_" + SIDE: limit.set}})
conprof.start(export_to="none:")
become_limited()
burn(0.05)
pid = os.fork()
if (pid == 0) == (SIDE == "child"):
    time.sleep(0.1)
    check_missing()
    limit.lift()
    comes_back()
if pid == 0:
    sys.stderr.flush()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
conprof.stop()
"""
    result = run_script(COMMON + body, options=("-W", "ignore::DeprecationWarning"))
    assert result.stderr.count("no thread can be had behind the fork") == 1, result.describe()
    assert result.stderr.count("profiling goes on") == 1, result.describe()
    assert "internal error" not in result.stderr


FORKS = {
    "libc": "libc.fork()",
    "raw": "libc.syscall({'x86_64': 56, 'aarch64': 220}[os.uname().machine], 17, 0, 0, 0, 0)",
}


@pytest.mark.parametrize("how", FORKS)
def test_the_child_of_a_fork_without_hooks_can_start(
    native_engine: None, tmp_path: Path, how: str
) -> None:
    """``fork()`` of libc runs pthread_atfork's handlers, the system call runs nothing at all.

    The portable engine has Python threads. CPython does not survive a fork that it does not know
    of while another thread waits for the GIL, with or without a profiler.
    """
    body = f"""
libc = ctypes.PyDLL(None)
conprof.start(export_to=EXPORT_TO)
burn(0.1)
pid = {FORKS[how]}
if pid == 0:
    conprof.start(export_to=EXPORT_TO)
    stats = conprof.stats()
    assert stats["process_id"] == os.getpid() and stats["engine"] == "native", stats
    in_child()
    stats = conprof.stats()["engine_stats"]
    assert stats["drain_cpu_ns"] > 0 and not stats["drain_missing"], stats
    assert "conprof-drain" in [
        open(f"/proc/self/task/{{tid}}/comm").read().strip()
        for tid in os.listdir("/proc/self/task")
    ]
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
conprof.stop()
"""
    run_script(f"{COMMON}\nEXPORT_TO = {tmp_path.as_uri()!r}\n{body}", timeout_s=40)
    used = [
        check_bytes(path.read_bytes()).by_function("cpu").get("in_child", 0)
        for path in tmp_path.glob("*.pb.gz")
    ]
    assert len(used) == 2
    assert max(used) > 0.25e9, used


@pytest.mark.parametrize("how", FORKS)
def test_the_child_of_a_fork_without_hooks_sends_nothing_and_exits(
    native_engine: None, tmp_path: Path, how: str
) -> None:
    body = f"""
libc = ctypes.PyDLL(None)
conprof.start(export_to=EXPORT_TO)
burn(0.1)
pid = {FORKS[how]}
if pid == 0:
    began = time.monotonic()
    with conprof.labels(job="child"):
        burn(0.05)
    thread = threading.Thread(target=burn, args=(0.05,))
    thread.start()
    thread.join()
    conprof.stats()
    assert conprof.flush(5)
    LAST
    assert time.monotonic() - began < 5
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
burn(0.1)
conprof.stop()
"""
    for last in ("pass", "conprof.stop()"):
        run_script(
            f"{COMMON}\nEXPORT_TO = {tmp_path.as_uri()!r}\n{body.replace('LAST', last)}",
            timeout_s=40,
        )
    assert len(list(tmp_path.glob("*.pb.gz"))) == 2, "of the parents, one each"


@pytest.mark.parametrize("ending", ["", "signal.signal(signal.SIGTERM, signal.SIG_DFL)"])
def test_sigterm_ends_the_child_of_a_fork_without_hooks(
    native_engine: None, tmp_path: Path, ending: str
) -> None:
    body = f"""
import signal
libc = ctypes.PyDLL(None)
conprof.start(export_to=EXPORT_TO)
pid = {FORKS["raw"]}
if pid == 0:
    {ending or "pass"}
    while True:
        time.sleep(1)
time.sleep(0.2)
os.kill(pid, signal.SIGTERM)
until = time.monotonic() + 10
while not (ended := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < until:
    time.sleep(0.01)
if not ended[0]:
    os.kill(pid, signal.SIGKILL)
assert ended[1] == signal.SIGTERM, ended
"""
    run_script(f"{COMMON}\nEXPORT_TO = {tmp_path.as_uri()!r}\n{body}", timeout_s=40)
