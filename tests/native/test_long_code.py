"""Functions whose line tables and names are longer than what a handler copies."""

from __future__ import annotations

import time
from collections import Counter
from types import CodeType, FunctionType

import pytest

from conprof_core import _native
from conprof_core.testing import Captured, capture

pytestmark = pytest.mark.native_core

# What a handler copies, and what the drain reads at most (code_registry.h).
BY_HANDLER = 32768
BY_DRAIN = 1 << 20
MAX_NAME = 4096


def burn(cpu_s: float) -> None:
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(100))


def generated(lines: int, name: str = "huge", file: str = "generated.py") -> FunctionType:
    """A function that burns CPU on its line ``lines + 2``."""
    body = "".join(f"    x{i % 50} = t + {i}\n" for i in range(lines))
    source = f"def huge(t):\n{body}    burn(t)\n    return 1\n"
    names: dict[str, FunctionType] = {}
    exec(compile(source, file, "exec"), {"burn": burn}, names)
    function = names["huge"]
    function.__code__ = function.__code__.replace(co_name=name, co_qualname=name)
    return function


def lines_of(captured: Captured, name: str) -> Counter[int]:
    lines: Counter[int] = Counter()
    for row in captured.rows:
        for frame in row.frames:
            if frame[0] == name:
                lines[frame[2]] += row.cpu_ns
    return lines


def the_line(captured: Captured, name: str = "huge") -> int:
    lines = lines_of(captured, name)
    assert lines, "the premise: the function was sampled"
    return lines.most_common(1)[0][0]


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(600, id="as long as a handler copies"),
        pytest.param(8000, id="longer"),
        pytest.param(20_000, id="much longer"),
    ],
)
def test_the_line_is_right_however_long_the_function_is(lines: int) -> None:
    function = generated(lines)
    is_longer = len(function.__code__.co_linetable) > BY_HANDLER
    assert is_longer == (lines > 600), "the premise"
    with capture(cpu_profile_rate=500) as captured:
        function(0.2)
    assert the_line(captured) == lines + 2


def test_beyond_what_the_drain_reads_it_is_the_first_line() -> None:
    function = generated(100)
    # What comes behind the last instruction is nobody's line.
    padding = b"\x80\x00" * (BY_DRAIN // 2)
    code = function.__code__
    function.__code__ = code.replace(co_linetable=code.co_linetable + padding)
    with capture(cpu_profile_rate=500) as captured:
        function(0.2)
    assert the_line(captured) == 1


def test_code_that_dies_before_the_drain_came_has_its_first_line_or_the_right_one() -> None:
    """Each is compiled, runs for a moment and is gone; its memory is another's soon."""
    with capture(cpu_profile_rate=1000) as captured:
        for turn in range(12):
            generated(6000 + turn)(0.02)
    lines = lines_of(captured, "huge")
    assert sum(lines.values()) > 0.1e9, lines
    # A sample may fall on any line of the body: then it says so, with little weight.
    allowed = {1, *range(6002, 6014)}
    assert sum(ns for line, ns in lines.items() if line in allowed) > 0.9 * sum(lines.values())


def test_a_line_table_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same function in two windows, and again in the next session."""
    function = generated(8000)
    for _ in range(2):
        with capture(cpu_profile_rate=500) as captured:
            function(0.1)
            assert _native.stats()["unwalkable"] == 0
            function(0.1)
        assert the_line(captured) == 8002


@pytest.mark.parametrize(
    "letter", ["n", "é", "\u0436", "\U0001d535"], ids=["ascii", "latin", "two", "four"]
)
def test_what_is_missing_of_a_name_is_told(letter: str) -> None:
    width = {"n": 1, "é": 1, "\u0436": 2, "\U0001d535": 4}[letter]
    name, file = "N" + letter * 5000, "/start/" + letter * 5000 + "/end.py"
    function = generated(3, name, file)
    with capture(cpu_profile_rate=500) as captured:
        function(0.1)
    shown = {frame[:2] for row in captured.rows for frame in row.frames if frame[0][:9] == name[:9]}
    kept = MAX_NAME // width
    assert shown == {(name[:kept] + "…", "…" + file[-kept:])}


def test_names_that_fit_are_whole() -> None:
    name, file = "N" * MAX_NAME, "/" + "f" * (MAX_NAME - 1)
    function = generated(3, name, file)
    assert isinstance(function.__code__, CodeType)
    with capture(cpu_profile_rate=500) as captured:
        function(0.1)
    shown = {frame[:2] for row in captured.rows for frame in row.frames if frame[0][:9] == name[:9]}
    assert shown == {(name, file)}
