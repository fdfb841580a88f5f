"""Signals that belong to others: we install no SIGSEGV handler and use no SIGPROF, and what an
application does with all signals is as without us."""

from __future__ import annotations

import pytest
from support.process import run_script

PRELUDE = """
import ctypes, faulthandler, os, signal, sys, threading, time
from conprof_core import _native
from conprof_core.testing import capture

def burn(cpu_s):
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(500))

class Action(ctypes.Structure):
    _fields_ = [("handler", ctypes.c_void_p), ("mask", ctypes.c_byte * 128),
                ("flags", ctypes.c_int), ("restorer", ctypes.c_void_p)]

libc = ctypes.CDLL(None, use_errno=True)

def handler_of(number):
    action = Action()
    assert libc.sigaction(number, None, ctypes.byref(action)) == 0
    return action.handler
"""


def test_dispositions_of_the_classic_signals_are_untouched() -> None:
    run_script(
        PRELUDE
        + """
watched = [number for number in range(1, 32) if number not in (9, 19, signal.SIGTERM)]
before = {number: handler_of(number) for number in watched}
python_side = {number: signal.getsignal(number) for number in (*watched, signal.SIGTERM)}
with capture() as captured:
    burn(0.1)
    assert {number: handler_of(number) for number in watched} == before
    assert {n: signal.getsignal(n) for n in python_side} == python_side
assert captured.cpu_ns("burn") > 0.05e9
assert handler_of(signal.SIGTERM) is None, "SIGTERM is given back"
"""
    )


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_of_the_program_is_still_reported_by_faulthandler(when: str) -> None:
    before = "faulthandler.enable()" if when == "before" else ""
    after = "faulthandler.enable()" if when == "after" else ""
    result = run_script(
        f"""{PRELUDE}
{before}
with capture(cpu_profile_rate=1000):
    {after or "pass"}
    burn(0.2)
    assert _native.stats()["signals"] > 10
    ctypes.string_at(0)
""",
        check=False,
    )
    assert result.returncode == -11, result.describe()
    assert "Segmentation fault" in result.stderr, result.describe()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_sigprof_handler_of_the_program_goes_on_working(when: str) -> None:
    install = "signal.signal(signal.SIGPROF, on_profile); signal.setitimer(ITIMER, 0.01, 0.01)"
    run_script(
        f"""{PRELUDE}
ITIMER, calls = signal.ITIMER_PROF, []
def on_profile(number, frame):
    calls.append(1)
{install if when == "before" else ""}
with capture() as captured:
    {install if when == "after" else "pass"}
    burn(0.4)
    signal.setitimer(ITIMER, 0)
assert len(calls) > 5, calls
assert captured.cpu_ns("burn") > 0.35e9
"""
    )


ALL = "signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}"


def test_an_application_that_handles_all_signals_gets_none_of_ours() -> None:
    run_script(
        f"""{PRELUDE}
got = {{}}
with capture(cpu_profile_rate=1000) as captured:
    for number in {ALL}:
        signal.signal(number, lambda number, frame: got.update({{number: got.get(number, 0) + 1}}))
    burn(0.5)
burn(0.2)
assert got == {{}}, got
assert captured.cpu_ns("burn") > 0.4e9, captured.cpu_ns()
"""
    )


@pytest.mark.parametrize("action", ["SIG_DFL", "SIG_IGN"])
def test_an_application_that_resets_all_signals_lives_and_is_profiled(action: str) -> None:
    run_script(
        f"""{PRELUDE}
with capture(cpu_profile_rate=1000) as captured:
    for number in {ALL}:
        signal.signal(number, signal.{action})
    for number in range(1, 65):  # as daemons do in C: whatever number there is
        libc.signal(number, {1 if action == "SIG_IGN" else 0})
    burn(0.3)
    before = _native.stats()["signals"]
    burn(0.2)
    assert _native.stats()["signals"] - before > 10
burn(0.2)
assert captured.cpu_ns("burn") > 0.4e9, captured.cpu_ns()
"""
    )


@pytest.mark.parametrize("wait", ["sigwait", "sigtimedwait", "signalfd"])
def test_none_of_ours_comes_out_of_a_wait_for_all_signals(wait: str) -> None:
    """All blocked, and one thread that waits for them: as manuals advise for threaded daemons."""
    run_script(
        f"""{PRELUDE}
import select
everything = {ALL} - {{signal.SIGTERM}}
signal.pthread_sigmask(signal.SIG_BLOCK, everything)
every = (ctypes.c_byte * 128)()
libc.sigfillset(every)

def wait_for_one():
    if {wait!r} == "sigwait":
        return int(signal.sigwait(everything))
    if {wait!r} == "sigtimedwait":
        return signal.sigtimedwait(everything, 20).si_signo
    fd = libc.signalfd(-1, every, 0)
    assert select.select([fd], [], [], 20)[0]
    number = int.from_bytes(os.read(fd, 128)[:4], sys.byteorder)
    os.close(fd)
    return number

with capture(cpu_profile_rate=1000) as captured:
    got = []
    for _ in range(5):
        burn(0.05)
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        got.append(wait_for_one())
        timer.join()
assert got == [signal.SIGUSR1] * 5, got
assert _native.stats()["signals"] > 20
assert captured.cpu_ns("burn") > 0.2e9, captured.cpu_ns()
"""
    )


@pytest.mark.parametrize("where", ["thread", "process", "exec"])
def test_blocked_signals_keep_nobody_from_being_sampled(where: str) -> None:
    """In one thread, as client libraries do; in all; inherited by the program that exec begins."""
    run_script(
        f"""{PRELUDE}
import conprof_core as conprof
if {where!r} != "thread":
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
if {where!r} == "exec" and "AGAIN" not in os.environ:
    os.environ["AGAIN"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

def consume():
    if {where!r} == "thread":
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    with conprof.labels(job="consume"):
        burn(0.4)

with capture() as captured:
    thread = threading.Thread(target=consume)
    thread.start()
    thread.join()
    assert len(signal.pthread_sigmask(signal.SIG_BLOCK, [])) > 30 or {where!r} == "thread"
assert captured.cpu_ns(job="consume") > 0.35e9, captured.cpu_ns()
assert captured.cpu_ns("burn", job="consume") > 0.35e9, captured.cpu_ns("burn")
"""
    )


def test_exec_with_signals_pending() -> None:
    result = run_script(
        PRELUDE
        + """
import conprof_core
left = int(os.environ.get("LEFT", "20"))
if left == 0:
    print("arrived"); sys.exit()
conprof_core.start(export_to="file://" + os.environ["TMPDIR"], cpu_profile_rate=1000)
burn(0.02)
assert _native.is_running()
os.environ["LEFT"] = str(left - 1)
os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
""",
        env={"TMPDIR": "/tmp"},
    )
    assert "arrived" in result.stdout


def test_a_thread_that_blocks_all_signals_is_charged_in_full() -> None:
    run_script(
        PRELUDE
        + """
used = []
def work():
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    burn(0.3)
    used.append(time.thread_time())
with capture() as captured:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
assert abs(captured.cpu_ns("work") / 1e9 - used[0]) < 0.02, (captured.cpu_ns("work"), used)
"""
    )


@pytest.mark.parametrize("tracer", ["settrace", "setprofile", "monitoring"])
def test_beside_a_tracer(tracer: str) -> None:
    run_script(
        f"""{PRELUDE}
events = []
if {tracer!r} == "monitoring":
    if sys.version_info < (3, 12):
        sys.exit()
    sys.monitoring.use_tool_id(sys.monitoring.PROFILER_ID, "other")
    sys.monitoring.register_callback(
        sys.monitoring.PROFILER_ID, sys.monitoring.events.PY_START, lambda *a: events.append(1))
    sys.monitoring.set_events(sys.monitoring.PROFILER_ID, sys.monitoring.events.PY_START)
else:
    getattr(sys, {tracer!r})(lambda *a: events.append(1))
with capture(cpu_profile_rate=1000) as captured:
    def called(n):
        return n
    until = time.thread_time() + 0.3
    while time.thread_time() < until:
        called(1)
if {tracer!r} != "monitoring":
    getattr(sys, {tracer!r})(None)
assert events, "the premise: the tracer saw calls"
assert captured.cpu_ns() > 0.29e9
"""
    )
