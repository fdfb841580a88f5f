"""Programs that do nothing special; it is their environment that is."""

from __future__ import annotations

import json
import os
import resource
import signal
import threading
import time

from cruel.report import burn, event, say, timed

SECONDS = 0.24


def _use_memory() -> None:
    rows = [{"id": number, "text": str(number) * 20} for number in range(2000)]
    say("memory", len(json.loads(json.dumps(rows))))


def alone() -> None:
    """One thread."""
    burn(SECONDS)
    _use_memory()
    say("done")


def threads(count: int = 2) -> None:
    """Threads that work at the same time as the main thread."""
    started = [threading.Thread(target=burn, args=(SECONDS / 4,)) for _ in range(count)]
    for thread in started:
        thread.start()
    burn(SECONDS)
    for thread in started:
        thread.join()
    _use_memory()
    say("threads", len(started))


def with_fork(count: int = 2) -> None:
    """Threads, and a fork among them."""
    threads(count)

    def fork() -> int:
        child = os.fork()
        if child == 0:
            os._exit(7)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    say("child", timed("fork", fork))
    burn(SECONDS / 2)


def many(count: int) -> None:
    """So many threads that live at once; each works a little, and lives a little longer."""
    threading.stack_size(128 << 10)
    go, done = threading.Event(), threading.Barrier(count) if count > 1 else None

    def work() -> None:
        sum(range(3000))
        if done is not None:
            done.wait()
        go.wait()
        sum(range(3000))

    started = [threading.Thread(target=work) for _ in range(count - 1)]
    began = time.perf_counter()
    for thread in started:
        thread.start()
    if done is not None:
        done.wait()
    event("took", of="threads", s=time.perf_counter() - began)
    say("at once", threading.active_count() - len([t for t in threading.enumerate() if t.daemon]))
    burn(SECONDS)
    go.set()
    for thread in started:
        thread.join()
    say("joined", len(started))


def greedy_threads() -> None:
    """Starts threads until no more can be had."""
    go, started, refused = threading.Event(), [], False
    for _ in range(200):
        thread = threading.Thread(target=go.wait)
        try:
            thread.start()
        except RuntimeError:
            refused = True
            break
        started.append(thread)
    burn(SECONDS)
    go.set()
    for thread in started:
        thread.join()
    say("refused", refused)
    threads(0)


def greedy_files() -> None:
    """Opens files until no more can be had, and keeps them past the end of a window."""
    taken: list[int] = []
    refused = ""
    try:
        while len(taken) < 5000:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        refused = error.strerror
    for _ in range(3):
        burn(SECONDS / 2)
        threading.Event().wait(0.3)
    for descriptor in taken:
        os.close(descriptor)
    say("refused", refused)
    threads(2)


def greedy_memory() -> None:
    """Allocates until no more can be had."""
    held, refused = [], False
    try:
        while len(held) < 5000:
            held.append(bytearray(1 << 20))
    except MemoryError:
        refused = True
    burn(SECONDS / 4)
    threading.Event().wait(0.6)
    burn(SECONDS / 4)
    held.clear()
    say("refused", refused)
    alone()


def signals_used_up() -> None:
    """Uses up what RLIMIT_SIGPENDING allows, by signals that wait, then goes on as others do."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN + 5})
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    most = resource.getrlimit(resource.RLIMIT_SIGPENDING)[0]
    sent = 0
    while sent <= most and libc.sigqueue(os.getpid(), int(signal.SIGRTMIN) + 5, None) == 0:
        sent += 1
    say("full", sent <= most)
    with_fork(12)


def stopped() -> None:
    """Is stopped and continued from outside, thrice."""
    for _ in range(3):
        child = os.fork()
        if child == 0:
            parent = os.getppid()
            time.sleep(0.05)
            os.kill(parent, signal.SIGSTOP)
            time.sleep(0.6)
            os.kill(parent, signal.SIGCONT)
            os._exit(0)
        began = time.perf_counter()
        burn(0.15)
        say("was stopped", time.perf_counter() - began > 0.6)
        os.waitpid(child, 0)
    threads(2)


def clock_leaps() -> None:
    """The wall clock leaps by an hour, ahead and back."""
    import ctypes

    step = ctypes.CDLL(None).cruel_step
    for seconds in (3600, -7200, 3600):
        before = time.time()
        step(ctypes.c_long(seconds))
        say("leapt", round((time.time() - before) / 60))
        burn(0.2)
        threading.Event().wait(0.7)
    threads(2)


def as_first_process() -> None:
    """Pid 1: signals with their default action do not reach it."""
    os.kill(os.getpid(), signal.SIGTERM)
    say("lives", os.getpid())
    with_fork()
    os.kill(os.getpid(), signal.SIGTERM)
    burn(SECONDS)
    threading.Event().wait(3)  # longer than a window, should none end it
    threads(2)
