"""Which profiles a window becomes, and what they are called."""

from __future__ import annotations

import pytest
from support.check_valid import check_bytes

from conprof_core._engine import Row
from conprof_core._pprof import encode_profile
from conprof_core.exporters import naming
from conprof_core.exporters.naming import COLUMNS, Measured, Naming

EVERYTHING = Measured(100, ("cpu", "heap", "wall", "tasks"), 64 * 1024)
FRAMES = (("f", "/srv/f.py", 3, 1),)
CPU = Row(FRAMES, (), "MainThread", samples=2, cpu_ns=20)
HEAP = Row(FRAMES, (("http.route", "/"),), "", alloc_objects=1, alloc_bytes=8, inuse_bytes=4)


def decode(names: Naming, name: str, rows: list[Row]) -> dict[str, list[int]]:
    """Return sample type → values of the samples of one of the profiles."""
    (shape,) = (shape for shape in names.shapes if shape.name == name)
    data = encode_profile(rows, shape, names, start_ns=1, end_ns=2, mapping_file="python")
    profile = check_bytes(data)
    values = [sample.values for sample in profile.samples]
    return {
        kind: [value[index] for value in values]
        for index, (kind, _, _) in enumerate(shape.sample_types)
    }


def test_the_columns_of_all_types_are_those_of_a_row() -> None:
    named = [column for columns in COLUMNS.values() for column in columns]
    assert Row._fields[3 + len(named) :] == ("trace",)
    assert tuple(named) == Row._fields[3:-1], "the extension fills rows in this order"


def test_the_extension_knows_every_column() -> None:
    pytest.importorskip("conprof_core._native", exc_type=ImportError)
    from conprof_core import testing

    with testing.capture() as captured:
        sum(range(3_000_000))
    for shape in naming.go(EVERYTHING).shapes + naming.blackfire(EVERYTHING).shapes:
        for _, _, column in shape.sample_types:
            assert all(hasattr(row, column) for row in captured.rows)
    assert captured.rows


@pytest.mark.parametrize("names", [naming.go(EVERYTHING), naming.blackfire(EVERYTHING)])
def test_what_is_measured_is_named_once(names: Naming) -> None:
    columns = [column for shape in names.shapes for _, _, column in shape.sample_types]
    assert len(set(columns)) == len(columns)
    for kind in EVERYTHING.types:
        assert set(COLUMNS[kind]) & set(columns), kind
    wires = [(kind, unit) for shape in names.shapes for kind, unit, _ in shape.sample_types]
    assert len(set(wires)) == len(wires)


def test_what_is_not_measured_is_left_out() -> None:
    assert [shape.name for shape in naming.go().shapes] == ["cpu"]
    assert [kind for kind, _, _ in naming.blackfire().shapes[0].sample_types] == [
        "cpu-time",
        "cpu-samples",
    ]
    only_tasks = naming.blackfire(Measured(types=("tasks",)))
    assert [shape.name for shape in only_tasks.shapes] == ["goroutines"]


def test_a_profile_holds_the_rows_that_have_its_values() -> None:
    rows = [CPU, HEAP]
    assert decode(naming.go(EVERYTHING), "cpu", rows) == {"samples": [2], "cpu": [20]}
    assert decode(naming.go(EVERYTHING), "heap", rows) == {
        "alloc_objects": [1],
        "alloc_space": [8],
        "inuse_objects": [0],
        "inuse_space": [4],
    }
    together = decode(naming.blackfire(EVERYTHING), "profile", rows)
    assert together["cpu-time"] == [20, 0]
    assert together["alloc-space"] == [0, 8]


def test_periods_are_what_was_asked_for() -> None:
    shapes = {shape.name: shape for shape in naming.go(EVERYTHING).shapes}
    assert shapes["cpu"].period == 10_000_000
    assert shapes["heap"].period == 64 * 1024
