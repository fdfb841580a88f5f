"""Threads that no signal of ours reaches: their CPU time is told as such, and they are counted."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from support.compiled import shared_library
from support.process import run_script

SYSCALLS = {"x86_64": 14, "aarch64": 135}  # rt_sigprocmask

PRELUDE = f"""
import ctypes, os, resource, signal, sys, threading, time
import conprof_core as conprof
from conprof_core import _native
from conprof_core.testing import capture

libc = ctypes.CDLL(None, use_errno=True)

def raw_mask(how):
    # Not through libc, which leaves its own signals out.
    number = _native.stats()["signal_number"]
    mask = ctypes.c_uint64(1 << number - 1)
    call = {SYSCALLS.get(platform.machine(), 0)}
    assert libc.syscall(call, how, ctypes.byref(mask), None, 8) == 0

def burn(cpu_s):
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(500))

def run(target, name="worker"):
    thread = threading.Thread(target=target, name=name)
    thread.start()
    thread.join()
"""

raw_masks = pytest.mark.skipif(
    platform.machine() not in SYSCALLS, reason="the number of the system call is not known here"
)


@raw_masks
def test_a_thread_that_blocks_even_our_signal_is_told_and_not_charged_elsewhere() -> None:
    run_script(
        PRELUDE
        + """
def consume():
    raw_mask(signal.SIG_BLOCK)
    with conprof.labels(job="consume"):
        burn(0.3)

def end_here():
    pass

with capture() as captured:
    run(lambda: (consume(), end_here()))
    burn(0.1)
assert captured.cpu_ns("[not sampled]") > 0.28e9, captured.rows
assert captured.cpu_ns("end_here") == 0, captured.rows
unsampled = [row for row in captured.rows if row.frames[0][0] == "[not sampled]"]
assert {row.thread_name for row in unsampled} == {"worker"}
assert abs(captured.cpu_ns() / 1e9 - 0.4) < 0.1, captured.cpu_ns()
"""
    )


@raw_masks
def test_what_stops_the_profiler_is_not_charged_with_what_was_not_sampled() -> None:
    run_script(
        PRELUDE
        + """
with capture() as captured:
    raw_mask(signal.SIG_BLOCK)
    burn(0.3)
here = sum(row.cpu_ns for row in captured.rows if any("stop" in f[0] for f in row.frames))
assert here < 0.1e9, captured.rows
assert captured.cpu_ns("[not sampled]") > 0.25e9, captured.rows
"""
    )


@raw_masks
def test_a_thread_is_counted_while_it_blocks_and_sampled_when_it_no_longer_does() -> None:
    run_script(
        PRELUDE
        + """
def until(number, count):
    end = time.monotonic() + 30
    while _native.stats()[number] != count and time.monotonic() < end:
        burn(0.1)
    assert _native.stats()[number] == count, _native.stats()

def block_and_unblock():
    until("threads_blocking_signals", 0)
    raw_mask(signal.SIG_BLOCK)
    until("threads_blocking_signals", 1)
    conprof.flush()
    raw_mask(signal.SIG_UNBLOCK)
    until("threads_blocking_signals", 0)
    after()

def after():
    burn(0.3)

with capture() as captured:
    run(block_and_unblock)
assert captured.cpu_ns("after") > 0.25e9, captured.rows
told = [dict(w.counters).get("threads_blocking_signals", 0) for w in captured.windows]
assert 1 in told and told[-1] == 0, told
"""
    )


def test_threads_for_which_the_kernel_has_no_timer_left() -> None:
    """The limit of pending signals is one of a user, so others may use it up."""
    run_script(
        PRELUDE
        + """
with capture() as captured:
    soft, hard = resource.getrlimit(resource.RLIMIT_SIGPENDING)
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, hard))
    counts = []

    def refused():
        counts.append(_native.stats()["threads_untracked"])
        burn(0.3)

    def meanwhile():
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (soft, hard))
        end = time.monotonic() + 30
        while _native.stats()["threads_untracked"] and time.monotonic() < end:
            burn(0.1)
        sampled()

    def sampled():
        burn(0.3)

    run(refused)
    run(meanwhile)
    assert counts == [1], counts
    assert _native.stats()["threads_untracked"] == 0, _native.stats()
assert captured.cpu_ns("[not sampled]") > 0.25e9, captured.rows
assert captured.cpu_ns("sampled") > 0.25e9, captured.rows
"""
    )


def test_thousands_of_threads() -> None:
    run_script(
        PRELUDE
        + """
threading.stack_size(1 << 16)
done = threading.Event()
with capture() as captured:
    threads = [threading.Thread(target=done.wait, daemon=True) for _ in range(3000)]
    for thread in threads:
        thread.start()
    stats = _native.stats()
    assert stats["threads"] >= 3001 and stats["threads_untracked"] == 0, stats
    run(lambda: burn(0.2))
    done.set()
    for thread in threads:
        thread.join()
    began = time.monotonic()
assert time.monotonic() - began < 5
assert captured.cpu_ns("burn") > 0.18e9, captured.cpu_ns()
""",
        timeout_s=120,
    )


def test_a_timer_that_is_granted_and_never_fires_is_found_at_the_start(tmp_path: Path) -> None:
    """As in an emulator, or under a sandbox that pretends."""
    library = shared_library(
        tmp_path,
        """
#include <time.h>
int timer_settime(timer_t timer, int flags, const struct itimerspec *when, struct itimerspec *old)
{
    return 0;
}
""",
    )
    run_script(
        PRELUDE
        + """
reason = _native.self_test()
assert "does not call its handler" in reason, reason
import tempfile
conprof.start(export_to="file://" + tempfile.mkdtemp())
assert conprof.stats()["engine"] == "portable", conprof.stats()
conprof.stop()
""",
        env={"LD_PRELOAD": str(library)},
    )
