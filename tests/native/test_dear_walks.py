"""Stacks so deep that one walk takes milliseconds: the program still has its CPU time."""

from __future__ import annotations

from support.process import run_script

SCRIPT = """
import sys, threading, time
from conprof_core import _native
from conprof_core.testing import capture

DEPTH = 3000
sys.setrecursionlimit(10 * DEPTH)

def burn(cpu_s):
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(200))

def leaf():
    while True:
        burn(0.02)
        yield

def wrapped(generator):
    yield from generator

def work():
    chain = leaf()
    for _ in range(DEPTH):
        chain = wrapped(chain)
    for _ in range(60):
        next(chain)

threading.stack_size(512 << 20)
before = time.process_time_ns()
with capture(cpu_profile_rate=1000) as captured:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    stats = _native.stats()
used = time.process_time_ns() - before
print(stats["handler_ns"], stats["samples"], stats["dear_walks_carried"], used,
      captured.cpu_ns(), captured.cpu_ns("burn"))
"""


def test_the_handler_takes_a_tenth_at_most(native_engine: None) -> None:
    """The frames of each generator of a chain lie outside the stack, and are read one by one."""
    result = run_script(SCRIPT)
    handler, samples, carried, used, total, burn = map(int, result.stdout.split())
    assert handler / samples > 0.5e6, "the premise: a walk is dear"
    assert carried > samples, "the premise: there were more signals than walks"
    assert handler < 0.13 * used
    assert abs(total - used) < 0.02 * used + 20e6
    assert burn > 0.8 * used
