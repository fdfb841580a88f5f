"""The Python encoder, read back by an independent reader, also with hostile input."""

from __future__ import annotations

import random

import pytest
from support.check_valid import check_bytes
from support.pprof_reader import Profile

from conprof_core._engine import Row
from conprof_core._merge import clean_name
from conprof_core._pprof import encode_profile
from conprof_core.exporters import naming
from conprof_core.exporters.naming import Naming

START_NS = 1_700_000_000_000_000_000


def encode(rows: list[Row], names: Naming | None = None) -> Profile:
    """Return what the reader makes of the rows."""
    names = names or naming.go()
    data = encode_profile(
        rows,
        names.shapes[0],
        names,
        start_ns=START_NS,
        end_ns=START_NS + 45_000_000_000,
        mapping_file="python3.13",
        comments=("conprof test", "truncated: 1"),
    )
    return check_bytes(data)


MAIN = ("<module>", "/app/main.py", 10, 1)
WORK = ("Shop.work", "/app/shop.py", 7, 5)


def test_header() -> None:
    profile = encode([])
    assert profile.time_nanos == START_NS
    assert profile.duration_nanos == 45_000_000_000
    assert (profile.period_type.type, profile.period_type.unit) == ("cpu", "nanoseconds")
    assert profile.period == 10_000_000
    assert profile.default_sample_type == "cpu"
    assert list(profile.comments) == ["conprof test", "truncated: 1"]
    assert [mapping.filename for mapping in profile.mappings] == ["python3.13"]


def test_rows_come_back() -> None:
    rows = [
        Row((WORK, MAIN), (("http.route", "/"), ("job", "x")), "MainThread", 3, 30_000_001),
        Row((MAIN,), (), "", 1, 9_000_000),
    ]
    profile = encode(rows)
    first, second = profile.samples
    assert [(frame.function, frame.filename, frame.line) for frame in first.frames] == [
        ("Shop.work", "/app/shop.py", 7),
        ("<module>", "/app/main.py", 10),
    ]
    assert first.values == [3, 30_000_001]
    assert first.labels == {"http.route": "/", "job": "x", "thread": "MainThread"}
    assert second.labels == {}
    assert {function.name: function.start_line for function in profile.functions} == {
        "Shop.work": 5,
        "<module>": 1,
    }


def test_names_for_blackfire() -> None:
    row = Row((WORK,), (("http.route", "/"), ("job", "x")), "MainThread", 3, 30)
    profile = encode([row], naming.blackfire())
    assert [(kind.type, kind.unit) for kind in profile.sample_types] == [
        ("cpu-time", "nanoseconds"),
        ("cpu-samples", "count"),
    ]
    (sample,) = profile.samples
    assert sample.values == [30, 3]
    assert sample.labels == {"trace endpoint": "/", "job": "x", "thread name": "MainThread"}


def test_rows_that_are_equal_under_the_names_are_merged() -> None:
    rows = [Row((WORK,), (), name, 1, 10) for name in ("a", "b", "a")]
    assert len(encode(rows).samples) == 2
    without = naming.go()._replace(thread_label=None)
    (sample,) = encode(rows, without).samples
    assert sample.values == [3, 30]


def test_a_user_label_beats_the_thread_label_of_the_same_name() -> None:
    (sample,) = encode([Row((WORK,), (("thread", "mine"),), "MainThread", 1, 1)]).samples
    assert sample.labels == {"thread": "mine"}


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("ordinary.<locals>.f", "ordinary.<locals>.f"),
        ("naïve", "naïve"),
        ("", ""),
        ("a\x00b\n", "a\\x00b\\n"),
        ("\x1b[31m", "\\x1b[31m"),
        ("caf\udce9", "caf�"),
        ("x" * 1_000_000, "x" * 999 + "…"),
    ],
)
def test_hostile_names(name: str, written: str) -> None:
    assert clean_name(name) == written
    row = Row(((name, name, 1, 1),), (("k", name),), name, 1, 1)
    (function,) = encode([row]).functions
    assert function.name == (written or "<unknown>")
    assert function.filename == written


def test_an_empty_label_is_no_label() -> None:
    (sample,) = encode([Row((WORK,), (("a", ""), ("b", "1")), "", 1, 1)]).samples
    assert sample.labels == {"b": "1"}


@pytest.mark.parametrize("value", [0, 1, 127, 128, 2**32, 2**63 - 1])
def test_numbers_of_every_length(value: int) -> None:
    (sample,) = encode([Row((("f", "f.py", 2**31 - 1, 1),), (), "t", 1, value)]).samples
    assert sample.values == [1, value]
    assert sample.frames[0].line == 2**31 - 1


def test_random_rows_keep_every_sum() -> None:
    choose = random.Random(7)
    frames = [(f"f{n % 40}", f"m{n % 7}.py", n, n % 40 + 1) for n in range(120)]
    rows = [
        Row(
            tuple(choose.choices(frames, k=choose.randint(1, 30))),
            tuple(sorted({f"k{choose.randint(0, 3)}": str(choose.randint(0, 5))}.items())),
            f"thread-{choose.randint(0, 4)}",
            choose.randint(1, 9),
            choose.randint(0, 10**10),
        )
        for _ in range(2_000)
    ]
    profile = encode(rows)
    assert profile.total("cpu") == sum(row.cpu_ns for row in rows)
    assert profile.total("samples") == sum(row.samples for row in rows)
    for thread in {row.thread_name for row in rows}:
        expected = sum(row.cpu_ns for row in rows if row.thread_name == thread)
        assert profile.by_label("thread", "cpu")[thread] == expected


def test_native_and_python_encoders_agree() -> None:
    pytest.importorskip("conprof_core._native", exc_type=ImportError)
    from conprof_core import EngineUnavailableError, labels, testing

    try:
        with testing.capture(engine="native") as captured:
            with labels(job="x", empty=""):
                sum(i * i for i in range(3_000_000))
            sorted(str(i) for i in range(300_000))
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    (exported,) = captured.windows
    native = check_bytes(exported.profiles[0].pprof_gz)
    python = encode(captured.rows)
    assert len(captured.rows) > 2
    assert _content(native) == _content(python)


def _content(profile: Profile) -> list[tuple[object, ...]]:
    return sorted(
        (
            tuple((frame.function, frame.filename, frame.line) for frame in sample.frames),
            tuple(sorted(sample.labels.items())),
            tuple(sample.values),
        )
        for sample in profile.samples
    )
