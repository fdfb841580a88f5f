"""What the system may refuse the native engine: memory, timers, calls that a sandbox filters."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.pprof_reader import parse_file
from support.process import run_script

pytestmark = [
    pytest.mark.usefixtures("native_engine"),
    pytest.mark.skipif(sys.platform != "linux", reason="limits and filters of Linux"),
]

TESTS = Path(__file__).parents[1]
COMMON = f"""
import os, resource, sys, threading, time
sys.path.insert(0, {str(TESTS)!r})
import conprof_core as conprof

def refuse(*names):
    from cruel import seccomp
    try:
        seccomp.refuse(names, 1)
    except (OSError, KeyError) as error:
        print("SKIP", error)
        os._exit(0)

def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(300))

def process_ns():
    return time.clock_gettime_ns(time.CLOCK_PROCESS_CPUTIME_ID)

def start(**options):
    conprof.start(export_to="file://" + os.getcwd() + "/profiles", **options)
    return process_ns()
"""


def run(source: str, folder: Path) -> tuple[list[str], int]:
    """Run a script in this folder; what it printed, and the CPU time in its profiles."""
    script = f"import os\nos.chdir({str(folder)!r})\n{COMMON}\n{source}"
    lines = run_script(script).check().stdout.splitlines()
    if lines and lines[0].startswith("SKIP"):
        pytest.skip(lines[0])
    profiles = [p for p in (folder / "profiles").iterdir() if p.name.count(".") == 2]
    return lines, sum(parse_file(path).total() for path in profiles)


def test_window_ends_while_the_program_holds_all_memory(tmp_path: Path) -> None:
    """A thread state that cannot be had is no reason to end the process."""
    source = """
start(period=0.2, cpu_duration=0.2)
pages = int(open("/proc/self/statm").read().split()[0])
most = pages * resource.getpagesize() + (12 << 20)
resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
held, ends = [], time.monotonic() + 1
waiting = threading.Event()
burn(0.1)
from conprof_core import _native
refused, until = 0, time.monotonic() + 20
while not refused and time.monotonic() < until:
    for size in (1 << 20, 1 << 12, 1 << 6):
        try:
            while True:
                held.append(bytearray(size))
        except MemoryError:
            pass
    time.sleep(0.1)
    try:
        refused = _native.stats()["own_threads_refused"]
    except MemoryError:
        pass
held.clear()
print(refused > 0)
conprof.stop()
"""
    lines, total = run(source, tmp_path)
    assert lines == ["True"]
    assert total > 0.09e9


def test_thread_that_is_armed_late_is_charged_once(tmp_path: Path) -> None:
    """What it used before is in the window that knew no better."""
    source = """
before = process_ns()
start()
limits = resource.getrlimit(resource.RLIMIT_SIGPENDING)
resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, limits[1]))
again, done = threading.Event(), threading.Event()
def work():
    burn(0.3)
    done.set()
    again.wait()
    burn(0.1)
thread = threading.Thread(target=work)
thread.start()
done.wait()
print(conprof.stats()["engine_stats"]["threads_untracked"] > 0)
conprof.flush()
resource.setrlimit(resource.RLIMIT_SIGPENDING, limits)
conprof.flush()
again.set()
thread.join()
conprof.stop()
print(process_ns() - before)
"""
    lines, total = run(source, tmp_path)
    assert lines[0] == "True"
    assert total < int(lines[1]) * 1.02 + 20e6


@pytest.mark.parametrize("name", ["timer_gettime", "gettid"])
def test_call_that_is_refused_later(name: str, tmp_path: Path) -> None:
    """Neither whether a thread lives nor what the kernel calls this one is told then; sums stay."""
    source = f"""
before = process_ns()
start(cpu_profile_rate=1000)
refuse({name!r})
burn(0.1)
threads = [threading.Thread(target=burn, args=(0.1,)) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
child = os.fork()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
conprof.flush()
burn(0.1)
conprof.stop()
print(process_ns() - before)
"""
    lines, total = run(source, tmp_path)
    used = int(lines[0])
    assert total < used * 1.02 + 20e6
    assert total > 0.45e9


@pytest.mark.parametrize("when", ["exec", "before", "after"])
def test_stacks_where_nobody_says_which_thread_this_is(when: str, tmp_path: Path) -> None:
    """gettid() is refused, and the states of new threads say -1: samples are the threads' own."""
    source = f"""
def loaded():
    burn(0.2)

if {when!r} == "exec" and "again" not in os.environ:
    os.environ["again"] = "1"
    refuse("gettid")
    os.execv(sys.executable, sys.orig_argv)
if {when!r} == "before":
    refuse("gettid")
start()
refuse("gettid")
assert threading.get_native_id() >= 1 << 31, "this program proves nothing"
threads = [threading.Thread(target=loaded, name=f"w{{i}}") for i in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
stats = conprof.stats()
print(stats["engine"], stats["engine_stats"]["threads_untracked"])
conprof.stop()
"""
    lines, total = run(source, tmp_path)
    assert lines == ["native 0"]
    loaded = sum(
        sample.values[profile.column(profile.time_type)]
        for path in (tmp_path / "profiles").iterdir()
        if path.name.count(".") == 2 and (profile := parse_file(path))
        for sample in profile.samples
        if "loaded" in sample.functions and sample.labels.get("thread", "").startswith("w")
    )
    assert loaded > 0.9 * total > 0.5e9
