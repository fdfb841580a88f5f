"""The wall clock is set while a window is open: it still has the length that it had."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from support.process import run_script

TESTS = str(Path(__file__).parents[1])

# In front of libc's: the wall clock of everything in the process is so many seconds ahead.
SHIM = r"""
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
volatile long ahead_s;
int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && clock == CLOCK_REALTIME) {
        now->tv_sec += ahead_s;
    }
    return result;
}
"""

PRELUDE = """
import ctypes, glob, gzip, os, sys, tempfile, time
import conprof_core as conprof
sys.path.insert(0, os.environ["TESTS"])
from support import pprof_reader

ahead = ctypes.c_long.in_dll(ctypes.CDLL(None), "ahead_s")

def step(seconds):
    before = time.time()
    ahead.value += seconds
    assert abs(time.time() - before - seconds) < 10, "the premise: the clock is set"

def burn(cpu_s):
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(200))

def profiles(directory):
    found = [pprof_reader.parse_file(path) for path in glob.glob(directory + "/*.pb.gz")]
    return sorted(found, key=lambda profile: -profile.time_nanos)
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: the clock cannot be set for one process")
    directory = tmp_path_factory.mktemp("clock")
    source, library = Path(directory, "shim.c"), Path(directory, "shim.so")
    source.write_text(SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    return str(library)


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_a_window_is_as_long_as_it_was(shim: str, seconds: int) -> None:
    run_script(
        f"""{PRELUDE}
directory = tempfile.mkdtemp()
conprof.start(application_name="steps", export_to="file://" + directory)
began = time.time_ns()
burn(0.2)
step({seconds})
burn(0.1)
conprof.flush()
burn(0.1)
conprof.stop()
found = profiles(directory)
assert len(found) >= 2, len(found)
for profile in found:
    assert 0.05e9 < profile.duration_nanos < 30e9, profile.duration_nanos
    assert profile.time_nanos > 0
starts = sorted(profile.time_nanos for profile in found)
assert min(abs(start - began) for start in starts) < 30e9
# The window behind the step begins by the clock as it is now.
assert min(abs(start - began - {seconds}e9) for start in starts) < 60e9, (began, starts)
""",
        env={"LD_PRELOAD": shim, "TESTS": TESTS},
    )


def test_without_a_step_windows_follow_each_other(shim: str) -> None:
    run_script(
        f"""{PRELUDE}
directory = tempfile.mkdtemp()
conprof.start(application_name="steps", export_to="file://" + directory)
for _ in range(3):
    burn(0.05)
    conprof.flush()
conprof.stop()
spans = sorted({{(p.time_nanos, p.duration_nanos) for p in profiles(directory)}})
assert len(spans) >= 3, spans
for (start, length), (following, _) in zip(spans, spans[1:]):
    assert start + length == following, spans
""",
        env={"LD_PRELOAD": shim, "TESTS": TESTS},
    )


def test_the_sum_of_windows_is_as_long_as_these(shim: str) -> None:
    """What a reader takes while the clock is set: several pieces, one profile."""
    run_script(
        f"""{PRELUDE}
from conprof_core import Profiler, _profiler, testing
from conprof_core._cuts import Reading
profiler = Profiler(exporters=(testing.MemoryExporter(),))
profiler.start()
cuts = _profiler.session().loop.cuts
reading = Reading()
cuts.begin(reading)
burn(0.05)
profiler.flush()
step(-3600)
burn(0.05)
taken = cuts.end(reading)
assert 0.05e9 < taken.end_ns - taken.start_ns < 30e9, taken.end_ns - taken.start_ns
alive = cuts.heap()
assert alive.end_ns == alive.start_ns
profiler.stop()
""",
        env={"LD_PRELOAD": shim, "TESTS": TESTS},
    )
