"""Blocks that our hook takes from pymalloc's pools itself: the same blocks, counted the same."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import tracemalloc

import pytest

from conprof_core import _native
from conprof_core.testing import capture

pytestmark = pytest.mark.native_core

needs_pymalloc = pytest.mark.skipif(
    os.environ.get("PYTHONMALLOC", "pymalloc") != "pymalloc", reason="pymalloc does not serve here"
)


def are_open() -> bool:
    return bool(_native.stats()["heap_pools_open"])


def churn(rounds: int, seed: int) -> int:
    """Fill blocks of every size class, free them in any order; how many were not as written."""
    # Its own bytearrays: their storage is a block each, whose every byte is ours.
    choose, kept, wrong = random.Random(seed), [bytearray(1)] * 3000, 0
    for number in range(rounds):
        at = choose.randrange(len(kept))
        wrong += len(set(kept[at])) > 1
        kept[at] = bytearray([number % 256]) * choose.randrange(1, 520)
    return wrong + sum(len(set(block)) > 1 for block in kept)


@needs_pymalloc
def test_the_pools_are_open_while_the_heap_is_profiled() -> None:
    with capture(profile_types="heap"):
        assert are_open()
    with capture():
        assert not are_open()


@needs_pymalloc
def test_every_block_is_handed_out_once_and_counted() -> None:
    """sys.getallocatedblocks adds up what the heads of the pools say."""

    def make() -> list[object]:
        # Distinct sizes, so that no free list of a type stands between.
        return [bytes(size % 440) for size in range(1, 200_000)]

    def held() -> int:
        before = sys.getallocatedblocks()
        kept = make()
        count = sys.getallocatedblocks() - before
        assert len({id(block) for block in kept}) == len(kept) - kept.count(b"") + 1
        return count

    truth = held()
    with capture(profile_types="heap", heap_sample_bytes=1 << 30):
        assert are_open()
        before = sys.getallocatedblocks()
        assert abs(held() - truth) < 100
        assert abs(sys.getallocatedblocks() - before) < 100


@needs_pymalloc
def test_blocks_keep_what_is_written_in_them() -> None:
    with capture(profile_types="heap", heap_sample_bytes=2048):
        assert are_open()
        assert churn(150_000, seed=1) == 0
    assert churn(20_000, seed=2) == 0


@needs_pymalloc
@pytest.mark.parametrize("body", [9, 160, 400])
def test_a_fragmented_heap_is_no_reason_to_call_pymalloc(body: int) -> None:
    """Pools with one free block each stand in front of their class, and every look fills one."""
    kept: list[bytes | None] = [number.to_bytes(body, "big") for number in range(100_000)]
    a_pool = 16_384 // sys.getsizeof(kept[0])
    kept[::a_pool] = [None] * len(kept[::a_pool])
    with capture(profile_types="heap"):
        assert are_open()
    del kept


@needs_pymalloc
def test_threads_share_the_pools() -> None:
    wrong: list[int] = []
    old = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with capture(profile_types="heap", heap_sample_bytes=2048):
            assert are_open()
            threads = [
                threading.Thread(target=lambda seed=seed: wrong.append(churn(20_000, seed)))
                for seed in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(old)
    assert wrong == [0] * 4


@pytest.mark.leaves_process
@needs_pymalloc
def test_a_child_of_a_fork_goes_on() -> None:
    with capture(profile_types="heap"):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = churn(20_000, seed=3)
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@needs_pymalloc
def test_who_stands_below_us_sees_every_block() -> None:
    """tracemalloc calls pymalloc, too, and the blocks are in the same order: but it must know."""
    tracemalloc.start()
    try:
        with capture(profile_types="heap"):
            assert not are_open()
            before = tracemalloc.get_traced_memory()[0]
            kept = [bytes(200) for _ in range(10_000)]
            assert tracemalloc.get_traced_memory()[0] - before > 10_000 * 200
    finally:
        tracemalloc.stop()
    del kept
    with capture(profile_types="heap"):
        assert are_open()


@needs_pymalloc
def test_who_comes_above_us_sees_every_block() -> None:
    with capture(profile_types="heap"):
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            kept = [bytes(200) for _ in range(10_000)]
            assert tracemalloc.get_traced_memory()[0] - before > 10_000 * 200
        finally:
            tracemalloc.stop()
        assert are_open()
    del kept


START = """
import sys, threading
import conprof_core
from conprof_core import Profiler
from conprof_core.testing import MemoryExporter
sys.path.insert(0, sys.argv[1])
profiler = Profiler(profile_types="heap", heap_sample_bytes=4096, exporters=(MemoryExporter(),))
profiler.start()
def are_open():
    return bool(conprof_core.stats()["engine_stats"]["heap_pools_open"])
"""


def run(program: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", START + program, os.path.dirname(__file__)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.leaves_process
@pytest.mark.parametrize("allocator", ["malloc", "debug", "malloc_debug"])
def test_other_allocators_are_only_called(allocator: str) -> None:
    program = """
from test_heap_pools import churn
assert not are_open()
print(churn(20_000, seed=4))
"""
    assert run(program, PYTHONMALLOC=allocator) == "0\n"


# An interpreter with a GIL of its own: its blocks must not come from the pools of another.
INTERPRETERS = """
from test_heap_pools import churn
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
assert are_open()
fill = '''
import random
choose, kept, wrong = random.Random(7), [bytearray(1)] * 3000, 0
for number in range(100_000):
    at = choose.randrange(len(kept))
    wrong += len(set(kept[at])) > 1
    kept[at] = bytearray([number % 256]) * choose.randrange(1, 520)
assert wrong == 0, wrong
open(PATH, "w").write("done")
'''
import os, tempfile
with tempfile.TemporaryDirectory() as directory:
    for number in range(3):
        path = os.path.join(directory, str(number))
        interpreter = interpreters.create()
        assert not are_open()
        thread = threading.Thread(
            target=interpreters.run_string, args=(interpreter, fill.replace("PATH", repr(path)))
        )
        thread.start()
        wrong = churn(40_000, seed=number)
        conprof_core.flush()
        assert not are_open()
        thread.join()
        assert open(path).read() == "done"
        assert wrong == 0
        interpreters.destroy(interpreter)
        assert are_open()
        assert churn(5_000, seed=9) == 0
profiler.stop()
print("done")
"""


@pytest.mark.leaves_process
@needs_pymalloc
def test_the_pools_are_closed_while_there_is_another_interpreter() -> None:
    assert run(INTERPRETERS) == "done\n"
