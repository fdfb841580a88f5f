"""A sandbox that closes after the start: refusals are counted, and the engine changes."""

from __future__ import annotations

import platform
import sys

import pytest
from support.process import run_script

from conprof_core import _native

# By system call: x86-64, aarch64.
NUMBERS = {
    "process_vm_readv": (310, 270),
    "timer_settime": (223, 110),
    "timer_create": (222, 107),
    "timer_gettime": (224, 108),
    "clock_gettime": (228, 113),
}
MACHINES = ("x86_64", "aarch64")

PRELUDE = """
import ctypes, gc, os, struct, sys, threading, time
from conprof_core import Profiler, _profiler, labels, stats, testing
from conprof_core.exporters import naming

libc = ctypes.CDLL(None, use_errno=True)

def refuse(number, error):
    # A program of four instructions: the one system call fails, in all threads; all others go on.
    allow, errno = 0x7FFF0000, 0x00050000 | error
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, errno), (0x06, 0, 0, allow)]
    program = b"".join(struct.pack("=HBBI", *one) for one in code)
    instructions = ctypes.create_string_buffer(program, len(program))
    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
    wanted = Filter(len(code), ctypes.addressof(instructions))
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    # seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, ...)
    if libc.syscall(SECCOMP, 1, 1, ctypes.byref(wanted)) != 0:
        print("no seccomp here")
        sys.exit(0)

def burn(cpu_s):
    until = time.process_time() + cpu_s
    while time.process_time() < until:
        list(generated(500))

def generated(count):
    for number in range(count):
        yield number

def wait_for(what):
    until = time.monotonic() + 20
    while not what():
        assert time.monotonic() < until, stats()
        time.sleep(0.01)
"""


@pytest.fixture(autouse=True)
def needs_seccomp() -> None:
    if not hasattr(_native, "self_test"):
        pytest.skip("the C extension is not part of this installation")
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        pytest.skip("no numbers of system calls are known for this machine")


def prelude(call: str) -> str:
    machine = MACHINES.index(platform.machine())
    seccomp = (317, 277)[machine]
    return f"SECCOMP, NUMBER = {seccomp}, {NUMBERS[call][machine]}\n{PRELUDE}"


@pytest.mark.parametrize("error", [1, 38], ids=["EPERM", "ENOSYS"])
@pytest.mark.parametrize("call", ["process_vm_readv", "timer_settime"])
def test_the_engine_changes_at_the_next_window(call: str, error: int) -> None:
    result = run_script(
        f"""{prelude(call)}
exporter = testing.MemoryExporter()
rows = []
profiler = Profiler(period=1, cpu_duration=1, exporters=(exporter,))
profiler.observe(rows.extend)
profiler.start()
assert stats()["engine"] == "native", stats()
began = time.process_time()
burn(0.3)
refuse(NUMBER, {error})
threading.Thread(target=burn, args=(0.1,)).start()  # timers are for new threads, too
burn(0.4)
wait_for(lambda: stats()["engine"] == "portable")
assert {call!r} in stats()["engine_reason"] or "timers" in stats()["engine_reason"], stats()
burn(0.2)  # the engine begins; what was labelled before it did has no labels in it
with labels(route="/after"):
    burn(0.5)
profiler.flush()
spent = time.process_time() - began
profiler.stop()
told = sum(row.cpu_ns for row in rows) / 1e9
# What the change itself takes, between two engines, is nobody's.
assert 0.85 * spent < told < 1.1 * spent + 0.1, (told, spent)
after = sum(row.cpu_ns for row in rows if ("route", "/after") in row.labels) / 1e9
assert after > 0.35, after
assert profiler is not None and len(exporter.windows) >= 2
print("OK")
""",
        env={"CONPROF_ENGINE": ""},
    )
    if "no seccomp here" in result.stdout:
        pytest.skip("this kernel or its sandbox has no seccomp filters for us")
    assert "OK" in result.stdout
    said = [line for line in result.stderr.splitlines() if "portable engine" in line]
    assert len(said) == 1, result.describe()
    assert "a sandbox now refuses" in said[0]


def test_who_demands_the_native_engine_keeps_it() -> None:
    result = run_script(
        f"""{prelude("process_vm_readv")}
profiler = Profiler(period=1, engine="native", exporters=(testing.MemoryExporter(),))
profiler.start()
burn(0.2)
refuse(NUMBER, 1)
burn(0.3)
wait_for(lambda: stats()["windows"] >= 1)
assert stats()["engine"] == "native"
assert stats()["engine_stats"]["refused_reads"] > 0, stats()["engine_stats"]
profiler.stop()
print("OK")
""",
    )
    assert "OK" in result.stdout or "no seccomp here" in result.stdout


def test_a_child_and_what_comes_later_begin_where_the_parent_stands() -> None:
    result = run_script(
        f"""{prelude("process_vm_readv")}
profiler = Profiler(period=1, exporters=(testing.MemoryExporter(),))
profiler.start()
refuse(NUMBER, 1)
burn(0.3)
wait_for(lambda: stats()["engine"] == "portable")
child = os.fork()
if child == 0:
    burn(0.1)
    os._exit(0 if stats()["engine"] == "portable" else 7)
assert os.waitpid(child, 0)[1] == 0
profiler.stop()
profiler.start()
assert stats()["engine"] == "portable", stats()
assert "process_vm_readv" in stats()["engine_reason"], stats()
profiler.stop()
print("OK")
""",
        env={"CONPROF_ENGINE": ""},
    )
    assert "OK" in result.stdout or "no seccomp here" in result.stdout
