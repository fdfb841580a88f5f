"""Live memory by tracemalloc: on explicit demand, said aloud, and given back."""

from __future__ import annotations

import os
import sys
import tracemalloc
from collections.abc import Iterator

import pytest
from support.check_valid import check_bytes
from support.process import run_script

from conprof_core import flush
from conprof_core._engine import Row
from conprof_core._engine.traced import TracedMemory
from conprof_core.testing import capture

pytestmark = [
    pytest.mark.skipif(
        os.environ.get("CONPROF_ENGINE") == "native",
        reason="CONPROF_ENGINE forces the other engine",
    ),
    pytest.mark.skipif(tracemalloc.is_tracing(), reason="somebody traces this very run"),
]

ON_DEMAND = {"engine": "portable", "profile_types": "cpu,heap", "heap_tracemalloc": True}


@pytest.fixture(autouse=True)
def nothing_is_traced() -> Iterator[None]:
    yield
    left = tracemalloc.is_tracing()
    tracemalloc.stop()
    assert not left


def make(count: int) -> list[bytes]:
    size = 1_000 - sys.getsizeof(b"")
    return [bytes(size) for _ in range(count)]


def alive(rows: list[Row]) -> tuple[int, int]:
    here = [row for row in rows if any(frame[1] == __file__ for frame in row.frames)]
    return sum(row.inuse_objects for row in here), sum(row.inuse_bytes for row in here)


def test_what_is_alive_is_told_exactly() -> None:
    with capture(**ON_DEMAND) as captured:
        kept = make(5_000)
        make(5_000)
        flush()
        first = alive(captured.rows)
        captured.rows.clear()
        del kept[2_000:]
    second = alive(captured.rows)
    # Beside the blocks there are the lists, and a few objects of the test's own.
    assert 5_000 <= first[0] < 5_200
    assert 5_000_000 <= first[1] < 5_300_000
    assert 2_000 <= second[0] < 2_200
    assert 2_000_000 <= second[1] < 2_300_000
    profile = next(each for each in captured.windows[-1].profiles if each.name == "heap")
    assert check_bytes(profile.pprof_gz).total("inuse_space") >= second[1]
    assert not any(row.alloc_bytes for row in captured.rows)
    del kept


def test_frames_are_files_and_lines_leaf_first() -> None:
    with capture(**ON_DEMAND) as captured:
        kept = make(1_000)
    line = make.__code__.co_firstlineno + 2
    row = max(captured.rows, key=lambda row: row.inuse_objects)
    assert row.frames[0] == (f"test_traced.py:{line}", __file__, line, 1)
    assert any(frame[0].startswith("test_traced.py:") for frame in row.frames[1:])
    del kept


def test_without_demand_nothing_is_traced() -> None:
    with capture(engine="portable", profile_types="cpu,heap") as captured:
        kept = make(1_000)
        assert not tracemalloc.is_tracing()
    assert alive(captured.rows) == (0, 0)
    del kept


@pytest.mark.parametrize(
    ("variable", "words"),
    [("1", "many times as long"), ("0", "can be had with CONPROF_HEAP_TRACEMALLOC=1")],
)
def test_the_price_is_said_once(variable: str, words: str) -> None:
    script = """
        import conprof_core
        conprof_core.start(export_to="file:///nonexistent/conprof", period=3600)
        conprof_core.flush(0.1)
        conprof_core.stop()
    """
    env = {"CONPROF_ENGINE": "portable", "CONPROF_PROFILE_TYPES": "cpu,heap"}
    lines = run_script(script, env=env | {"CONPROF_HEAP_TRACEMALLOC": variable}).stderr.splitlines()
    assert len([line for line in lines if words in line]) == 1, lines


def test_a_tracemalloc_of_the_users_own_stays() -> None:
    tracemalloc.start(3)
    kept = make(1_000)
    with capture(**ON_DEMAND) as captured:
        flush()
        before = alive(captured.rows)
    assert tracemalloc.is_tracing()
    assert tracemalloc.get_traceback_limit() == 3
    assert before[0] >= 1_000, "and what it knows from before is told"
    tracemalloc.stop()
    with capture(**ON_DEMAND) as captured:
        tracemalloc.stop()  # under our feet
    assert alive(captured.rows) == (0, 0)
    del kept


def test_rows_are_bounded_and_sums_stay() -> None:
    traced = TracedMemory()
    traced.start(max_rows=3)
    kept: list[object] = []
    exec("\n".join(["kept.append(bytes(10_000))"] * 50), {"kept": kept})
    rows = traced.rows()
    traced.stop()
    assert len(rows) == 4
    assert rows[-1].frames[0][0] == "[stack table full]"
    assert sum(row.inuse_bytes for row in rows) >= 50 * 10_000


def test_a_child_has_only_what_it_allocated_itself() -> None:
    traced = TracedMemory()
    traced.start(max_rows=1_000)
    kept = make(1_000)
    assert alive(traced.rows())[0] >= 1_000
    traced.forget()
    assert alive(traced.rows())[0] < 100
    mine = make(500)
    assert 500 <= alive(traced.rows())[0] < 600
    traced.stop()
    del kept, mine
