"""Forks by several threads at once, within each other, beside a stop, and such as fail."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.process import run_script

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

# The programs fork with threads of their own.
WARNINGS_OFF = ("-W", "ignore::DeprecationWarning")

COMMON = """
import os, sys, threading, time
import conprof_core as conprof
from conprof_core import _profiler

state = _profiler._state

def burn(cpu_s):
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(500))

def fork(make=os.fork):
    child = make()
    pid, terminal = child if isinstance(child, tuple) else (child, None)
    if pid == 0:
        ok = conprof.is_running() and conprof.stats()["process_id"] == os.getpid()
        conprof.stop()
        os._exit(0 if ok else 7)
    status = os.waitpid(pid, 0)[1]
    if terminal is not None:
        os.close(terminal)
    assert status == 0, status

errors = []

def at_once(*forks):
    def run(forking):
        try:
            forking()
        except BaseException as error:
            errors.append(repr(error))
    threads = [threading.Thread(target=run, args=(forking,)) for forking in forks]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    return threads

def join(threads):
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert not errors, errors

def is_free():
    # Of another thread: the one that asks could always enter once more.
    taken = []
    def take():
        if state._lock.acquire(True, 5):
            taken.append(1)
            state._lock.release()
    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return bool(taken)

def goes_on():
    # It samples, and ticks, as before.
    before = conprof.stats()["samples"]
    burn(0.1)
    until = time.monotonic() + 30
    while conprof.stats()["samples"] <= before and time.monotonic() < until:
        state.session._wake()
        time.sleep(0.05)
        burn(0.02)
        conprof.flush(5)
    return conprof.stats()["samples"] > before
"""


def run(body: str, tmp_path: Path, **options: object) -> float:
    result = run_script(
        f"{COMMON}\nEXPORT_TO = {tmp_path.as_uri()!r}\n{body}", options=WARNINGS_OFF, timeout_s=50
    )
    return result.seconds


@pytest.mark.parametrize("pause_s", [0.2, 0.7])
def test_two_threads_fork_at_once(engine: str, tmp_path: Path, pause_s: float) -> None:
    """Another hook gives the GIL away, for longer than the wait for the lock."""
    body = f"""
os.register_at_fork(before=lambda: time.sleep({pause_s}))  # registered before ours: runs after it
conprof.start(export_to=EXPORT_TO)
join(at_once(fork, fork))
assert is_free() and not state._forks
assert goes_on()
"""
    run(body, tmp_path)


def test_three_threads_one_of_them_by_forkpty_while_the_main_thread_stops(
    engine: str, tmp_path: Path
) -> None:
    body = """
os.register_at_fork(before=lambda: time.sleep(0.3))
conprof.start(export_to=EXPORT_TO)
def fork_anyhow(make=os.fork):
    child = make()
    pid = child[0] if isinstance(child, tuple) else child
    if pid == 0:
        conprof.stop()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
threads = at_once(fork_anyhow, lambda: fork_anyhow(os.forkpty), fork_anyhow)
conprof.stop()
assert not conprof.is_running()
join(threads)
assert is_free() and not state._forks
conprof.start(export_to=EXPORT_TO)
assert goes_on()
"""
    run(body, tmp_path)


def test_forks_and_forkpty_in_a_loop(engine: str, tmp_path: Path) -> None:
    body = """
conprof.start(export_to=EXPORT_TO)
def many(make):
    for _ in range(5):
        fork(make)
join(at_once(lambda: many(os.fork), lambda: many(os.forkpty)))
assert is_free() and not state._forks
assert goes_on()
"""
    run(body, tmp_path)


def test_a_fork_within_a_hook_of_a_fork(engine: str, tmp_path: Path) -> None:
    """The inner child comes out of the hook, and forks where the outer fork goes on."""
    body = """
inside = []
def nested():
    if not inside:
        inside.append(1)
        pid = os.fork()
        if pid == 0:
            inside.append("child")
        else:
            assert os.waitpid(pid, 0)[1] == 0
os.register_at_fork(before=nested)
conprof.start(export_to=EXPORT_TO)
pid = os.fork()
if pid == 0:
    assert conprof.is_running() and conprof.stats()["process_id"] == os.getpid()
    conprof.stop()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert is_free() and not state._forks
assert goes_on()
conprof.stop()
if "child" in inside:
    os._exit(0)
"""
    run(body, tmp_path)


def test_a_fork_that_fails(engine: str, tmp_path: Path) -> None:
    body = """
import logging, resource
conprof.start(export_to="none:")
conprof.flush(5)  # what it imports is imported: the other user may not be able to
if os.getuid() == 0:
    os.setresuid(64117, 64117, 64117)  # root may have as many processes as it likes
soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
def limit():
    resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
def unlimit():
    resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
for _ in range(3):
    limit()
    try:
        os.fork()
    except BlockingIOError:
        pass
    else:
        raise SystemExit("the premise: the fork fails")
    unlimit()
    conprof.stats()  # where what could not be started is tried again
    time.sleep(1.1)
    conprof.stats()
assert is_free() and not state._forks
assert goes_on()
fork()
"""
    run(body, tmp_path)


def test_a_hook_that_hangs_holds_nobody_up(engine: str, tmp_path: Path) -> None:
    """stop() and start() give up after a while, and say so where ``stats()`` shows it."""
    body = """
hold = threading.Event()
os.register_at_fork(before=lambda: hold.wait(40))
conprof.start(export_to=EXPORT_TO, upload_timeout=0.5)
threads = at_once(fork)
time.sleep(0.5)
began = time.monotonic()
conprof.stop()
took = time.monotonic() - began
assert took < 0.5 + 2.1 + 2, took
assert conprof.is_running() and conprof.stats()["waits_given_up"] == 1, conprof.stats()
assert not _profiler.change(lambda config: {"enabled": False}, "test")
hold.set()
join(threads)
assert is_free()
assert goes_on()
"""
    run(body, tmp_path)
