"""Every way to have a child."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from cruel.programs import ordinary
from cruel.report import burn, in_child, say, started_with, timed

SCRIPT = [sys.executable, "-c", "print('child'); raise SystemExit(5)"]


def _await(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _by(fork: Callable[[], int], leaves_at_once: bool = False, has_hooks: bool = True) -> int:
    pid = fork()
    if pid == 0:
        if leaves_at_once:
            os.write(1, b"child\n")
            os._exit(5)
        in_child(5, is_profiled=has_hooks)
    return _await(pid)


def os_fork() -> int:
    """os.fork; the child leaves as programs do."""
    return _by(os.fork)


def os_fork_exit() -> int:
    """os.fork; the child leaves by os._exit."""
    return _by(os.fork, leaves_at_once=True)


def forkpty() -> int:
    """os.forkpty."""
    pid, terminal = os.forkpty()
    if pid == 0:
        os.write(1, b"child\n")
        os._exit(5)
    text = b""
    try:
        while part := os.read(terminal, 100):
            text += part
    except OSError:  # the other end is closed
        pass
    os.close(terminal)
    say(text)
    return _await(pid)


def libc_fork() -> int:
    """fork(2) by libc, without Python's hooks; the child goes on as a Python program."""
    return _by(ctypes.PyDLL(None).fork, has_hooks=False)


def raw_fork() -> int:
    """The bare system call: neither Python's hooks nor libc's."""
    number = {"x86_64": 57}.get(platform.machine())
    call = ctypes.PyDLL(None).syscall
    # ARM64 has clone alone: 220, with SIGCHLD.
    return _by(lambda: call(number) if number else call(220, 17, 0, 0, 0, 0), True)


def _libc_fork_then(*names: str) -> int:
    pid = ctypes.PyDLL(None).fork()
    if pid == 0:
        if "conprof_core" in sys.modules:
            import conprof_core as conprof

            calls = {"stop": conprof.stop, "start": lambda: conprof.start(**started_with)}
            for name in names:
                calls[name]()
        in_child(5)
    return _await(pid)


def libc_fork_starts() -> int:
    """A child without hooks that starts the profiler itself, as a server's worker may."""
    return _libc_fork_then("start")


def libc_fork_stops() -> int:
    """The same, which stops it first."""
    return _libc_fork_then("stop", "start")


def popen() -> int:
    """subprocess, which takes vfork."""
    return subprocess.run(SCRIPT, check=False).returncode


def popen_preexec() -> int:
    """subprocess with a function to call in the child, which takes fork."""
    return subprocess.run(SCRIPT, check=False, preexec_fn=os.getpid).returncode


def system() -> int:
    """The shell."""
    return os.waitstatus_to_exitcode(os.system("echo child; exit 5"))


def posix_spawn() -> int:
    """posix_spawn."""
    return _await(os.posix_spawn(sys.executable, SCRIPT, os.environ))


def _target() -> None:
    in_child(5)


def _multiprocessing(method: str) -> int:
    process = multiprocessing.get_context(method).Process(target=_target)
    process.start()
    process.join()
    return process.exitcode or 0


def mp_fork() -> int:
    """multiprocessing, fork."""
    return _multiprocessing("fork")


def mp_forkserver() -> int:
    """multiprocessing, forkserver."""
    return _multiprocessing("forkserver")


def mp_spawn() -> int:
    """multiprocessing, spawn."""
    return _multiprocessing("spawn")


def grandchild() -> int:
    """A child that forks."""

    def fork() -> int:
        pid = os.fork()
        if pid == 0:
            os._exit(_by(os.fork))
        return pid

    return _await(fork())


def in_thread() -> int:
    """A fork by a thread; the child is that thread alone."""
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.append(_by(os.fork, leaves_at_once=True)))
    thread.start()
    thread.join()
    return got[0]


def two_at_once() -> int:
    """Two threads fork at once, while another hook of the fork takes its time."""
    got: list[int] = []

    def fork(wait: float) -> None:
        time.sleep(wait)
        got.append(_by(os.fork, leaves_at_once=True))

    pair = [threading.Thread(target=fork, args=(wait,)) for wait in (0, 0.05)]
    for thread in pair:
        thread.start()
    for thread in pair:
        thread.join()
    return sum(got)


def while_threads_burn() -> int:
    """Ten forks beside two threads that work."""
    busy = [threading.Thread(target=burn, args=(0.4,)) for _ in range(2)]
    for thread in busy:
        thread.start()
    got = sum(_by(os.fork, leaves_at_once=True) for _ in range(10))
    for thread in busy:
        thread.join()
    return got


def prepare(form: str) -> None:
    """Before the profiler starts: hooks registered now run within its own."""
    if form == "two_at_once":
        os.register_at_fork(before=lambda: time.sleep(0.7))


def run(form: str) -> None:
    """Work, have a child in this form, and work on."""
    burn(0.2)
    say(form, timed("fork", globals()[form]))
    ordinary.threads(2)


def execute(form: str) -> None:
    """Become another program."""
    burn(0.2)
    arguments = [sys.executable, "-c", "import signal; print('other', signal.sigpending())"]
    if form == "thread":
        thread = threading.Thread(target=os.execv, args=(sys.executable, arguments))
        thread.start()
        thread.join()
    elif form == "failing":
        try:
            os.execv("/nonexistent/program", ["program"])
        except OSError as error:
            say(error.strerror)
        return ordinary.threads(2)
    os.execv(sys.executable, arguments)
    return None
