"""The handler on alternate signal stacks of any size, and on threads' stacks near their end."""

from __future__ import annotations

import pytest
from support.process import run_script

PRELUDE = """
import ctypes, mmap, os, signal, sys, threading, time
from conprof_core import _native
from conprof_core.testing import capture

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]

class Stack(ctypes.Structure):
    _fields_ = [("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

class Action(ctypes.Structure):
    _fields_ = [("handler", ctypes.c_void_p), ("mask", ctypes.c_byte * 128),
                ("flags", ctypes.c_int), ("restorer", ctypes.c_void_p)]

ONSTACK, CANARY = 0x08000000, 65536

def burn(cpu_s):
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(200))

def room(size):
    # Canaries below the stack; the stack ends where the mapping does.
    whole = libc.mmap(None, CANARY + size, 3, 0x22, -1, 0)
    ctypes.memset(whole, 0xA5, CANARY)
    return whole

def is_whole(at):
    return ctypes.string_at(at, CANARY) == b"\\xa5" * CANARY

def use(at, size):
    stack = Stack(at + CANARY, 0, size)
    assert libc.sigaltstack(ctypes.byref(stack), None) == 0, ctypes.get_errno()

def in_child(work):
    # The status in which a child ends.
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(9)
        os._exit(0)
    return os.waitpid(child, 0)[1]

def empty_handler_survives(size):
    # A signal whose handler is a function that does nothing, at a thread with such a stack.
    def work():
        at = room(size)
        action = Action(ctypes.cast(libc.getpid, ctypes.c_void_p).value, flags=ONSTACK)
        assert libc.sigaction(signal.SIGUSR1, ctypes.byref(action), None) == 0
        use(at, size)
        for _ in range(3):
            signal.raise_signal(signal.SIGUSR1)
        assert is_whole(at)
    return in_child(work) == 0

def profiled(size, below, thread):
    def work():
        seen = {}
        def run():
            use(seen["at"], size)
            burn(0.15)
        with capture(cpu_profile_rate=1000, profile_types="cpu") as captured:
            if not below:
                seen["at"] = room(size)
            runner = threading.Thread(target=run, name="runner")
            # Mappings come from above: what is made later lies lower.
            if thread:
                ready = threading.Event()
                inner = run
                def run_when_ready():
                    ready.wait()
                    inner()
                runner = threading.Thread(target=run_when_ready)
                runner.start()
            if below:
                seen["at"] = room(size)
            if thread:
                ready.set()
                runner.join()
            else:
                run()
            stats = _native.stats()
        assert is_whole(seen["at"]), "overrun"
        burned = captured.cpu_ns("burn")
        assert stats["samples"] > 0 or stats["no_stack_room"] > 0, stats
        if stats["no_stack_room"] == 0:
            assert burned > 0.13e9, (burned, stats)
        else:
            unsaid = 0.15e9 - burned - captured.cpu_ns("[not sampled]")
            assert unsaid < 0.02e9, (burned, captured.cpu_ns("[not sampled]"), stats)
        if size >= 65536:
            assert stats["no_stack_room"] == 0, stats
    return in_child(work)
"""


@pytest.mark.parametrize("below", [False, True], ids=["above", "below"])
def test_alternate_stacks_of_any_size(below: bool) -> None:
    run_script(
        f"""{PRELUDE}
tried = 0
for size in (2048, 3072, 4096, 4608, 5120, 5632, 6144, 8192, 16384, 65536):
    status = profiled(size, {below}, True)
    if empty_handler_survives(size):
        tried += 1
        assert status == 0, (size, status)
    else:
        # The kernel itself has no room for its frame there, whatever the handler is.
        assert status in (0, 11, 11 | 128), (size, status)
assert tried >= 3
print("OK")
"""
    )


def test_the_main_thread_on_an_alternate_stack() -> None:
    run_script(
        f"""{PRELUDE}
for size in (16384, 65536):
    assert profiled(size, True, False) == 0, size
"""
    )


def test_little_room_is_counted_and_what_was_used_there_has_a_name() -> None:
    """The smallest stack that takes the kernel's frame has no room for ours."""
    run_script(
        f"""{PRELUDE}
size = 2048
while not empty_handler_survives(size):
    size += 256
def run():
    use(at, size)
    burn(0.3)
with capture(cpu_profile_rate=500) as captured:
    at = room(size)
    runner = threading.Thread(target=run)
    runner.start()
    runner.join()
    stats = _native.stats()
assert is_whole(at), "overrun"
assert stats["no_stack_room"] > 3, stats
total = captured.cpu_ns("burn") + captured.cpu_ns("[not sampled]")
assert captured.cpu_ns("[not sampled]") > 0.2e9, captured.rows
assert total > 0.28e9, total
"""
    )
