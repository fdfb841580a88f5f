"""The control signal: it toggles, passes on, and never harms the program."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import pytest
from support.process import run_script

import conprof_core as conprof
from conprof_core import ConfigError, testing

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such signals")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = signal.getsignal(signal.SIGUSR2)
    yield
    signal.signal(signal.SIGUSR2, before)


def start(**options: object) -> conprof.Profiler:
    profiler = conprof.Profiler(
        exporters=[testing.MemoryExporter()],
        control_signal="SIGUSR2",
        **options,  # type: ignore[arg-type]
    )
    profiler.start()
    return profiler


def send_and_wait(enabled: bool) -> None:
    os.kill(os.getpid(), signal.SIGUSR2)
    wait_for(lambda: conprof.stats()["enabled"] is enabled)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_it_toggles_and_is_given_back(engine: str) -> None:
    before = signal.getsignal(signal.SIGUSR2)
    profiler = start()
    for _ in range(3):
        send_and_wait(False)
        send_and_wait(True)
    assert conprof.stats()["control"]["sources"]["enabled"] == "signal SIGUSR2"
    assert conprof.stats()["control"]["changes"] == 6
    profiler.stop()
    assert signal.getsignal(signal.SIGUSR2) == before


def test_nothing_is_installed_unless_asked_for(engine: str) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)]
    with testing.capture():
        assert [signal.getsignal(n) for n in (signal.SIGUSR1, signal.SIGUSR2)] == before


def test_the_previous_handler_is_called_too(engine: str) -> None:
    seen: list[tuple[int, bool]] = []

    def previous(number: int, frame: FrameType | None) -> None:
        seen.append((number, frame is not None))

    signal.signal(signal.SIGUSR2, previous)
    profiler = start()
    send_and_wait(False)
    profiler.stop()
    assert seen == [(signal.SIGUSR2, True)]
    assert signal.getsignal(signal.SIGUSR2) is previous


def test_whoever_stands_in_front_stays_there(engine: str) -> None:
    profiler = start()
    ours = signal.getsignal(signal.SIGUSR2)
    assert callable(ours)

    def in_front(number: int, frame: FrameType | None) -> None:
        ours(number, frame)

    signal.signal(signal.SIGUSR2, in_front)
    send_and_wait(False)
    profiler.stop()
    assert signal.getsignal(signal.SIGUSR2) is in_front
    os.kill(os.getpid(), signal.SIGUSR2)
    time.sleep(0)
    assert not conprof.is_running(), "a stopped profiler only passes it on"


def test_outside_the_main_thread_it_is_said_and_nothing_else_happens(
    engine: str, caplog: pytest.LogCaptureFixture
) -> None:
    profilers: list[conprof.Profiler] = []
    before = signal.getsignal(signal.SIGUSR2)
    thread = threading.Thread(target=lambda: profilers.append(start()))
    thread.start()
    thread.join(30)
    assert profilers[0].is_running
    assert signal.getsignal(signal.SIGUSR2) == before
    assert "main thread" in conprof.stats()["control"]["signal"]["trouble"]
    profilers[0].stop()
    assert len([line for line in caplog.messages if "SIGUSR2 changes nothing" in line]) == 1


def test_a_system_call_is_not_interrupted() -> None:
    """A library that does not expect EINTR must not get it because of us."""
    profiler = start()
    # What siginterrupt(False) is for: the flag SA_RESTART, as the kernel sees it.
    import ctypes

    class Action(ctypes.Structure):
        _fields_ = (("handler", ctypes.c_void_p), ("mask", ctypes.c_ulong * 16),
                    ("flags", ctypes.c_int), ("restorer", ctypes.c_void_p))  # fmt: skip

    action = Action()
    if sys.platform != "linux":
        profiler.stop()
        pytest.skip("the layout is Linux's")
    assert ctypes.CDLL(None).sigaction(signal.SIGUSR2, None, ctypes.byref(action)) == 0
    profiler.stop()
    assert action.flags & 0x10000000


@pytest.mark.parametrize("value", ["SIGKILL", "SIGTERM", "12", 12, "SIG", "nonsense"])
def test_signals_that_cannot_be_had(value: object) -> None:
    with pytest.raises(ConfigError, match="control_signal"):
        conprof.start(control_signal=value)


STORM = """
import os, signal, threading, time
import conprof_core as conprof
from conprof_core import testing
conprof.Profiler(exporters=[testing.MemoryExporter()], control_signal="SIGUSR2").start()

def send():
    while len(forked) < 5 or conprof.stats()["control"]["changes"] < 60:
        os.kill(os.getpid(), signal.SIGUSR2)
        time.sleep(0.0005)

def burn(cpu_s):
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(500))

forked = []
sender = threading.Thread(target=send)
sender.start()
while sender.is_alive():
    # In the middle of everything that takes our locks.
    conprof.flush(1)
    conprof.reconfigure(cpu_profile_rate=50)
    conprof.stats()
    conprof.reconfigure(cpu_profile_rate=100)
    if len(forked) < 5:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
            conprof.reconfigure(enabled=True)
            burn(0.05)
            assert conprof.flush(5)
            os._exit(0 if conprof.stats()["samples"] else 3)
        forked.append(pid)
sender.join()
assert conprof.stats()["control"]["changes"] > 20, conprof.stats()["control"]
print("codes", [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in forked])
conprof.reconfigure(enabled=True)
before = conprof.stats()["samples"]
burn(0.2)
conprof.flush(5)
assert conprof.stats()["samples"] > before
print("errors", conprof.stats()["internal_errors"])
conprof.stop()
"""


def test_a_storm_of_signals_with_forks(engine: str) -> None:
    result = run_script(STORM, options=("-W", "ignore::DeprecationWarning"), timeout_s=120)
    assert "codes [0, 0, 0, 0, 0]" in result.stdout, result.describe()
    assert "errors {}" in result.stdout, result.describe()
