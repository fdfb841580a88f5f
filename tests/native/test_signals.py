"""Signals that belong to others: we install no SIGSEGV handler, use no SIGPROF, and give way."""

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


def test_it_moves_to_another_signal_when_its_own_is_taken() -> None:
    run_script(
        PRELUDE
        + """
with capture() as captured:
    burn(0.25)  # the drain looks every 0.1 s: between two looks
    first = _native.stats()["signal_number"]
    taken = []
    signal.signal(first, lambda number, frame: taken.append(number))
    burn(0.6)
    stats = _native.stats()
    assert stats["signal_number"] != first, stats
    burn(0.3)
assert taken, "the premise: a signal of ours reached the other handler"
assert captured.cpu_ns("burn") > 1.05e9, captured.cpu_ns()
assert signal.getsignal(first) is not signal.SIG_DFL
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
