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
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
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

def deep(depth):
    return deep(depth - 1) if depth else lib.run(signal.{name}, 6000)

with capture(cpu_profile_rate=1000) as captured:
    deep(100)
    burn(0.5)  # the reader notices what stands in its way
    before = _native.stats()["samples"]
    burn(0.5)
    stats = _native.stats()
    assert stats["samples"] - before > 20, stats
    if {name!r} == "SIGALRM":
        assert stats["handlers_abandoned"] == 0, stats
    began = time.monotonic()
assert time.monotonic() - began < 2, time.monotonic() - began
assert captured.cpu_ns("burn") > 0.9e9, captured.cpu_ns("burn")
""",
        timeout_s=120,
    )
