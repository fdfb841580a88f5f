"""Threads on small stacks live with us as they do without, but for what stack_bounds.h says."""

from __future__ import annotations

from support.process import run_script
from support.stack_usage import constants

# Calls of C from C, each of which takes a bit of the stack; the innermost allocates.
SCRIPT = """
import functools, os, sys, threading
from conprof_core.testing import capture

STACK = 65536

def leaf():
    for _ in range(300):
        bytes(300), bytes(3000), [None] * 50

def nested(depth):
    call = leaf
    for _ in range(depth):
        # A partial that cannot be made one with the next, as it has attributes.
        call = functools.partial(call)
        call.level = None
    return call

def lives(depth, stack=STACK, profiled=False):
    child = os.fork()
    if child == 0:
        def run():
            threading.stack_size(stack)
            thread = threading.Thread(target=nested(depth))
            thread.start()
            thread.join()
        if profiled:
            with capture(profile_types="heap", heap_sample_bytes=1024):
                run()
        else:
            run()
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0

def deepest(stack):
    low, high = 0, 1024
    while lives(high, stack):
        low, high = high, 2 * high
        if high > 5000:
            return low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if lives(middle, stack) else (low, middle)
    return low

least = deepest(STACK)
more = deepest(2 * STACK)
assert least > 0 and more > least, (least, more)
level = STACK / (more - least)
# Twice the bound: what libc takes below ours is not in it.
needed = int(2 * BOUND / level)
print(least, more, level, needed)
for _ in range(3):
    assert lives(least - needed, profiled=True), (least, needed, level)
print("OK")
"""


def test_a_small_thread_allocates_near_the_end_of_its_stack() -> None:
    bound = constants("stack_bounds.h")["CONPROF_HOOK_STACK_BYTES"]
    result = run_script(f"BOUND = {bound}\n{SCRIPT}")
    assert "OK" in result.stdout, result.describe()
