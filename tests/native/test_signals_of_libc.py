"""Our signal is the one that libc keeps for itself: what libc does with it goes on working."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.compiled import shared_library
from support.process import run_script

LIBRARY = """
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static atomic_int cleaned, is_ready, called;

static void clean(void *unused) { (void)unused; atomic_fetch_add(&cleaned, 1); }

static void *spin(void *alternate)
{
    static char stack[1 << 16];
    stack_t own = {.ss_sp = stack, .ss_size = sizeof stack};
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
    if (alternate != NULL) {
        sigaltstack(&own, NULL);
    }
    pthread_cleanup_push(clean, NULL);
    atomic_store(&is_ready, 1);
    for (;;) {
        __asm__ volatile("" ::: "memory");
    }
    pthread_cleanup_pop(0);
    return NULL;
}

static void *sleep_long(void *unused)
{
    (void)unused;
    pthread_cleanup_push(clean, NULL);
    atomic_store(&is_ready, 1);
    for (;;) {
        pause();
    }
    pthread_cleanup_pop(0);
    return NULL;
}

/* 0, or the step that failed. */
static int cancel(void *(*run)(void *), void *argument, int after_us)
{
    pthread_t thread;
    struct timespec until;
    void *result = NULL;
    atomic_store(&is_ready, 0);
    atomic_store(&cleaned, 0);
    if (pthread_create(&thread, NULL, run, argument) != 0) {
        return 1;
    }
    while (!atomic_load(&is_ready)) {
        usleep(1000);
    }
    usleep(after_us);
    if (pthread_cancel(thread) != 0) {
        return 2;
    }
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    if (pthread_timedjoin_np(thread, &result, &until) != 0) {
        return 3;
    }
    return result != PTHREAD_CANCELED ? 4 : atomic_load(&cleaned) != 1 ? 5 : 0;
}

int cancel_spinning(int after_us) { return cancel(spin, NULL, after_us); }
int cancel_on_signal_stack(int after_us) { return cancel(spin, &called, after_us); }
int cancel_sleeping(int after_us) { return cancel(sleep_long, NULL, after_us); }

static void on_timer(union sigval value) { (void)value; atomic_fetch_add(&called, 1); }

/* Starts a timer of libc's that calls a function in a thread; then how often it did. */
int timer_start(int every_ms)
{
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_THREAD};
    struct timespec every = {.tv_nsec = every_ms * 1000000L};
    struct itimerspec when = {every, every};
    event.sigev_notify_function = on_timer;
    return timer_create(CLOCK_MONOTONIC, &event, &timer) | timer_settime(timer, 0, &when, NULL);
}
int timer_calls(void) { return atomic_load(&called); }
"""

PRELUDE = """
import ctypes, os, signal, sys, threading, time
import conprof_core
from conprof_core import _native
from conprof_core.testing import capture

lib = ctypes.CDLL({library!r})

def burn(cpu_s):
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(500))
"""


@pytest.fixture
def prelude(tmp_path: Path) -> str:
    """Return the beginning of a program that has the library."""
    return PRELUDE.format(library=str(shared_library(tmp_path, LIBRARY)))


@pytest.mark.parametrize("how", ["cancel_spinning", "cancel_sleeping", "cancel_on_signal_stack"])
@pytest.mark.parametrize("libc_is_first", [True, False])
def test_threads_are_cancelled(prelude: str, how: str, libc_is_first: bool) -> None:
    """Of the kernel's signal 32, libc's handler gets what pthread_cancel sends, and we the rest."""
    run_script(
        f"""{prelude}
if {libc_is_first}:
    assert lib.{how}(0) == 0
with capture(cpu_profile_rate=1000) as captured:
    for after_us in (0, 1000, 30_000):  # the last: our timers have fired in it
        assert lib.{how}(after_us) == 0, after_us
        burn(0.05)
    burn(0.3)  # libc's handler came over ours: the drain notices
    before = _native.stats()["signals"]
    burn(0.3)
    stats = _native.stats()
    assert stats["signals"] - before > 20, stats
    assert lib.{how}(10_000) == 0
    assert stats["foreign_signals"] <= 8, stats
# A part of it was used while libc's handler stood in our place.
assert captured.cpu_ns("burn") > 0.6e9, (captured.cpu_ns("burn"), captured.cpu_ns())
assert lib.{how}(0) == 0, "after the end"
"""
    )


@pytest.mark.parametrize("libc_is_first", [True, False])
def test_timers_of_libc_call_their_function_in_a_thread(prelude: str, libc_is_first: bool) -> None:
    """Their helper thread waits for the very signal that we use, and blocks it."""
    run_script(
        f"""{prelude}
if {libc_is_first}:
    assert lib.timer_start(5) == 0
with capture(cpu_profile_rate=1000) as captured:
    if not {libc_is_first}:
        assert lib.timer_start(5) == 0
    burn(0.5)
    calls = lib.timer_calls()
    assert calls > 20, calls
    time.sleep(0.5)
    assert lib.timer_calls() - calls > 20
assert captured.cpu_ns("burn") > 0.4e9, captured.cpu_ns()
"""
    )


def test_user_ids_change_in_all_threads(prelude: str) -> None:
    """setuid() signals every thread and waits for all: also for one that we interrupt."""
    run_script(
        f"""{prelude}
with capture(cpu_profile_rate=1000) as captured:
    threads = [threading.Thread(target=burn, args=(0.2,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        os.setuid(os.getuid())
        os.setgid(os.getgid())
        time.sleep(0.001)
    for thread in threads:
        thread.join()
assert captured.cpu_ns("burn") > 1.5e9, captured.cpu_ns()
"""
    )


def test_children_are_spawned_while_it_runs() -> None:
    """libc gives a spawned child the internal signals ignored; it profiles itself all the same."""
    run_script(
        """
import os, subprocess, sys, time
from conprof_core.testing import capture

CHILD = '''
import time
from conprof_core import _native
from conprof_core.testing import capture
with capture() as captured:
    def burn():
        until = time.thread_time() + 0.15
        while time.thread_time() < until: sum(range(500))
    burn()
    assert _native.stats()["signals"] > 3
assert captured.cpu_ns("burn") > 0.12e9, captured.cpu_ns()
'''
with capture(cpu_profile_rate=1000):
    for _ in range(20):
        subprocess.run(["/bin/true"], check=True)
    subprocess.run([sys.executable, "-c", CHILD], check=True)
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", CHILD], os.environ)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""
    )


def test_a_raw_handler_over_ours_gets_what_is_not_ours(tmp_path: Path) -> None:
    """As libc's comes at the first pthread_cancel: the drain goes in front, theirs stays behind."""
    library = shared_library(
        tmp_path,
        """
#define _GNU_SOURCE
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
static atomic_int timers, others;
static void on_signal(int number, siginfo_t *info, void *context)
{
    atomic_fetch_add(info->si_code == SI_TIMER ? &timers : &others, 1);
}
int take(int number)
{
    struct { void *handler; unsigned long flags; void *restorer; unsigned long mask; } action;
    memset(&action, 0, sizeof action);
    syscall(SYS_rt_sigaction, number, NULL, &action, 8);
    action.handler = (void *)on_signal;
    return (int)syscall(SYS_rt_sigaction, number, &action, NULL, 8);
}
int send(int number) { return (int)syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), number); }
int timers_seen(void) { return atomic_load(&timers); }
int others_seen(void) { return atomic_load(&others); }
""",
    )
    run_script(
        PRELUDE.format(library=str(library))
        + """
with capture(cpu_profile_rate=1000) as captured:
    burn(0.1)
    number = _native.stats()["signal_number"]
    if number > 32:
        sys.exit()  # not libc's own: under a sanitizer
    for _ in range(100):
        assert lib.take(number) == 0
        burn(0.02)
        if lib.timers_seen():
            break  # the premise: signals of ours reached the other handler
    burn(0.6)
    taken = lib.timers_seen()
    assert taken > 0
    for sent in range(1, 4):
        assert lib.send(number) == 0
        assert lib.others_seen() == sent
    burn(0.3)
    assert lib.timers_seen() == taken
    stats = _native.stats()
    assert stats["signals"] > 100 and stats["foreign_signals"] == 3, stats
assert captured.cpu_ns("burn") > 0.9e9, captured.cpu_ns()
"""
    )
