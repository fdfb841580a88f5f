"""Handlers of other libraries that leave by siglongjmp, also on top of our own."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.compiled import shared_library
from support.process import run_script

LIBRARY = """
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static sigjmp_buf env;
static volatile sig_atomic_t is_ready;
static atomic_int goes_on;
static pid_t target;
static int wanted;

static void on_signal(int number)
{
    (void)number;
    if (is_ready) {
        siglongjmp(env, 1);
    }
}

static void *send_signals(void *unused)
{
    struct timespec pause = {.tv_nsec = 100000};
    (void)unused;
    while (atomic_load(&goes_on)) {
        syscall(SYS_tgkill, getpid(), target, wanted);
        nanosleep(&pause, NULL);
    }
    return NULL;
}

static uintptr_t ours, ours_end;

static void on_signal_in_ours(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)info;
#if defined(__x86_64__)
    uintptr_t at = (uintptr_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
#else
    uintptr_t at = (uintptr_t)((ucontext_t *)context)->uc_mcontext.pc;
#endif
    if (at >= ours && at < ours_end) {
        siglongjmp(env, 1);
    }
}

/* Runs until a signal that found the thread in this range of code was left by a jump. */
int leave(uintptr_t from, uintptr_t to)
{
    pthread_t sender;
    struct sigaction action, before;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_signal_in_ours;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, &before);
    ours = from;
    ours_end = to;
    target = (pid_t)syscall(SYS_gettid);
    wanted = SIGSEGV;
    atomic_store(&goes_on, 1);
    if (sigsetjmp(env, 1) == 0) {
        pthread_create(&sender, NULL, send_signals, NULL);
        for (;;) {
            __asm__ volatile("" ::: "memory");
        }
    }
    ours = ours_end = 0;
    atomic_store(&goes_on, 0);
    struct timespec pause = {.tv_nsec = 10000000};
    nanosleep(&pause, NULL); /* the sender's last signals have come */
    sigaction(SIGSEGV, &before, NULL);
    return 0;
}

/* Runs until so many signals have been left by a jump. */
int run(int number, int times)
{
    pthread_t sender;
    struct sigaction action, before;
    volatile int done = 0;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    sigaction(number, &action, &before);
    target = (pid_t)syscall(SYS_gettid);
    wanted = number;
    atomic_store(&goes_on, 1);
    pthread_create(&sender, NULL, send_signals, NULL);
    sigsetjmp(env, 1);
    if (done++ < times) {
        is_ready = 1;
        for (;;) {
            __asm__ volatile("" ::: "memory");
        }
    }
    is_ready = 0;
    atomic_store(&goes_on, 0);
    pthread_join(sender, NULL);
    sigaction(number, &before, NULL);
    return done;
}
"""


# How many signals came whose handler neither took a sample nor carried it.
NEVER_ENDED = """
ENDED = ("samples", "walks_carried", "ring_full_carried", "dear_walks_carried", "unwalkable",
         "no_stack_room")

def never_ended():
    stats = _native.stats()
    return stats["signals"] - sum(stats[key] for key in ENDED)

"""


@pytest.mark.parametrize("name", ["SIGALRM", "SIGSEGV"])
def test_the_profile_goes_on(tmp_path: Path, name: str) -> None:
    """SIGSEGV is not blocked in our handler: what it leaves there is given up (test_ring.py)."""
    library = shared_library(tmp_path, LIBRARY)
    run_script(
        f"""
import ctypes, signal, time
from conprof_core import _native
from conprof_core.testing import capture

lib = ctypes.PyDLL({str(library)!r})

def burn(cpu_s):
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(500))

{NEVER_ENDED}
def deep(depth):
    return deep(depth - 1) if depth else lib.run(signal.{name}, 6000)

with capture(cpu_profile_rate=1000) as captured:
    for _ in range(1 if {name!r} == "SIGALRM" else 5):
        deep(600)
        if never_ended():
            break
    burn(0.5)  # the reader notices what stands in its way
    before = _native.stats()["samples"]
    burn(0.5)
    stats = _native.stats()
    assert stats["samples"] - before > 20, stats
    if {name!r} == "SIGALRM":
        assert stats["handlers_abandoned"] == 0 and never_ended() == 0, stats
    else:
        assert never_ended() > 0, ("the premise: our handler was left by a jump", stats)
    began = time.monotonic()
assert time.monotonic() - began < 2, time.monotonic() - began
assert captured.cpu_ns("burn") > 0.9e9, captured.cpu_ns("burn")
""",
        timeout_s=120,
    )


def test_a_handler_that_is_left_as_the_last_of_its_thread(tmp_path: Path) -> None:
    """Neither stop() nor the next start() waits for it, and it is counted."""
    library = shared_library(tmp_path, LIBRARY)
    run_script(
        f"""
import ctypes, threading, time
from conprof_core import _native
from conprof_core.testing import capture

lib = ctypes.CDLL({str(library)!r})  # without the GIL, so that the main thread goes on
lib.leave.argtypes = [ctypes.c_size_t] * 2
(code,) = [
    line.split()[0].split("-") for line in open("/proc/self/maps")
    if line.rstrip().endswith(_native.__file__) and line.split()[1].startswith("r-x")
]
start, end = (int(edge, 16) for edge in code)

def burn(cpu_s):
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(500))

def deep(depth):
    return deep(depth - 1) if depth else lib.leave(start, end)

{NEVER_ENDED}for turn in range(2):
    release = threading.Event()
    left = threading.Event()
    def work():
        # Many a signal finds the handler at its first instruction, where it has not begun.
        before = never_ended()
        while never_ended() == before:
            deep(800)
        left.set()
        release.wait()
    with capture(cpu_profile_rate=1000) as captured:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        left.wait()
        burn(0.3)
        began = time.monotonic()
    took = time.monotonic() - began
    assert took < 2, took
    assert captured.cpu_ns("burn") > 0.25e9, captured.cpu_ns("burn")
    assert _native.stats()["handlers_abandoned"] == 1, _native.stats()
    release.set()
    thread.join()
""",
        timeout_s=120,
    )
