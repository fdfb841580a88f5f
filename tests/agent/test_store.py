"""The data directory: one owner, nothing twice, retention by file, tables that come back."""

from __future__ import annotations

import time
from pathlib import Path

import duckdb
import pytest
from support import agent as make

from conprof_core.agent import query
from conprof_core.agent.errors import DirectoryInUseError, UploadRefusedError
from conprof_core.agent.intake import Upload, parse
from conprof_core.agent.merge import merge_into
from conprof_core.agent.selection import Selection, parse_selection
from conprof_core.agent.store import DAY_S, Store
from conprof_core.agent.tree import FlameTree

NOW = time.time()
EVERYTHING = Selection("cpu", 0, NOW + 100, "shop")


def window(end: float = NOW, **changes: object) -> Upload:
    return parse(make.CONTENT_TYPE, make.upload(end, **changes), NOW)


def total(store: Store, selection: Selection = EVERYTHING) -> int:
    tree = FlameTree()
    merge_into(tree, store, selection)
    return tree.totals[0][0]


def test_what_is_written_is_there_after_opening_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.write([window(), window(NOW - 20)]) == [None, None]
    assert total(store) == 200_000_000
    store.close()
    store = Store(tmp_path)
    assert total(store) == 200_000_000
    assert store.write([window(NOW - 40)]) == [None]
    assert total(store) == 300_000_000
    tables = store.tables(store.segments()[-1])
    assert len(tables.node_parent) == 4, "root, main, hot and cold are stored once"
    store.close()


def test_an_upload_that_is_sent_again_counts_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.write([window(), window()]) == [None, None]
    assert store.write([window()]) == [None]
    assert total(store) == 100_000_000
    store.close()
    store = Store(tmp_path)
    assert store.write([window()]) == [None]
    assert total(store) == 100_000_000
    store.close()


def test_a_second_owner_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    first = Store(tmp_path)
    first.lock.describe("http://127.0.0.1:8307/")
    with pytest.raises(DirectoryInUseError, match=r"pid \d+, http://127.0.0.1:8307/.*--data"):
        Store(tmp_path)
    first.close()
    Store(tmp_path).close()


def test_retention_deletes_days_and_keeps_the_rest(tmp_path: Path) -> None:
    store = Store(tmp_path, keep_days=2)
    ends = [NOW - days * DAY_S for days in (0, 1, 4)]
    assert store.write([window(end) for end in ends]) == [None] * 3
    assert total(store) == 300_000_000
    gone = store.retain(NOW)
    assert len(gone) == 1
    assert not gone[0].exists()
    assert total(store) == 200_000_000
    with pytest.raises(UploadRefusedError, match="older than the 2 days"):
        store.check(window(ends[-1]), NOW)
    store.close()


def test_retention_by_size_deletes_the_oldest_files_first(tmp_path: Path) -> None:
    store = Store(tmp_path, max_bytes=1)
    for days in (2, 1, 0):
        store.write([window(NOW - days * DAY_S)])
    assert len(store.segments()) == 3
    store.retain(NOW)
    (left,) = store.segments()
    assert left.day == int(NOW - 5) // DAY_S
    assert total(store) == 100_000_000
    store.close()


def test_a_full_file_is_continued_in_another(tmp_path: Path) -> None:
    store = Store(tmp_path, max_bytes=4)  # every file is above its share at once
    for n in range(3):
        store.write([window(NOW - n * 20 - 10)])
    assert len(store.segments()) >= 3
    assert total(store) == 300_000_000
    store.close()


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch) -> None:
    store = Store(tmp_path)
    store.write([window()])
    segment = store.segments()[0]
    good = segment._append

    def fail(cursor: object, table: str, *rest: object, **how: object) -> None:
        good(cursor, table, *rest, **how)  # type: ignore[arg-type]
        if table == "totals":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(segment, "_append", fail)
    (error,) = store.write([window(NOW - 20, tags_profiler="service:shop,host:new")])
    assert "No space left" in str(error)
    monkeypatch.undo()
    assert total(store) == 100_000_000
    assert store.write([window(NOW - 20, tags_profiler="service:shop,host:new")]) == [None]
    assert total(store) == 200_000_000
    hosts = next(e for e in query.labels(store, EVERYTHING) if e["key"] == "host")
    assert {v["value"] for v in hosts["values"]} == {"web-1", "new"}
    store.close()


def test_adjacent_ranges_share_no_window(tmp_path: Path) -> None:
    store = Store(tmp_path)
    base = NOW - 1000
    store.write([window(base + n * 7) for n in range(40)])
    cut = base + 131.4
    before = Selection("cpu", base - 100, cut, "shop")
    after = Selection("cpu", cut, NOW, "shop")
    assert total(store, before) + total(store, after) == 40 * 100_000_000
    assert total(store, before)
    assert total(store, after)
    store.close()


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["http.route=/"], 30),
        (["http.route=/", "http.route=/cart/<int:id>"], 100),
        (["http.route!=/"], 70),
        (["host=web-1"], 100),
        (["host=web-2"], 0),
        (["host!=web-2", "http.route=/"], 30),
        (["thread=worker"], 100),
        (["nothing="], 100),
        (["nothing=x"], 0),
    ],
)
def test_filters_on_labels_and_on_the_process(tmp_path: Path, filters, expected: int) -> None:
    store = Store(tmp_path)
    store.write([window()])
    selection = parse_selection({"service": ["shop"], "from": ["0"], "label": filters}, "", NOW + 9)
    assert total(store, selection) == expected * 1_000_000
    rows = query.table(store, selection)["rows"]
    assert sum(row["total"] for row in rows) == expected * 1_000_000
    store.close()


def test_the_table_knows_requests_rates_and_windows(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(
        [window(NOW - n * 10, endpoint_counts={"/": 3, "/cart/<int:id>": 7}) for n in range(4)]
    )
    answer = query.table(store, EVERYTHING)
    first = answer["rows"][0]
    assert answer["covered_s"] == pytest.approx(40, abs=0.01)
    assert first["value"] == "/cart/<int:id>"
    assert first["requests"] == 28
    assert first["per_request"] == pytest.approx(10e6)
    assert first["per_second"] == pytest.approx(7e6, rel=0.001)
    assert first["p95"] == pytest.approx(7e6, rel=0.001)
    assert first["share"] == pytest.approx(0.7)
    store.close()


def test_a_state_is_averaged_over_time_and_added_over_processes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    types = [("inuse_space", "bytes")]

    def heap(end: float, process: int, size: int) -> Upload:
        body = make.multipart(
            make.part(
                "event", make.event(end, tags_profiler=f"service:shop,pid:{process}"), "event.json"
            ),
            make.part("heap.pprof", make.pprof(types, [([make.HOT], {}, [size])]), "heap.pprof"),
        )
        return parse(make.CONTENT_TYPE, body, NOW)

    end = float(int(NOW)) - 100
    store.write([heap(end + n * 10, 1, 1000) for n in range(4)])
    store.write([heap(end + n * 10, 2, 500) for n in range(4)])
    selection = Selection("heap_space", NOW - 600, NOW, "shop")
    assert total(store, selection) == 1500
    assert query.table(store, selection)["total"] == 1500
    line = query.series(store, selection, 10)["lines"][0]["values"]
    assert max(line) == pytest.approx(1500)
    store.close()


def test_the_time_series_adds_up_to_the_total(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write([window(NOW - n * 10) for n in range(12)])
    selection = Selection("cpu", NOW - 300, NOW + 10, "shop")
    for step in (1, 7, 60):
        answer = query.series(store, selection, step, "http.route")
        area = sum(sum(line["values"]) for line in answer["lines"]) * step
        assert area == pytest.approx(12 * 100e6, rel=0.001)
    store.close()


def test_a_window_far_longer_than_the_range_counts_where_they_meet(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write([window(NOW, seconds=DAY_S - 60)])
    middle = NOW - DAY_S / 2 + 30
    selection = Selection("cpu", middle - 50, middle + 50, "shop")
    (line,) = query.series(store, selection, 1)["lines"]
    assert len(line["values"]) in (100, 101)
    per_second = 100e6 / (DAY_S - 60)
    assert line["values"] == pytest.approx([per_second] * len(line["values"]), rel=0.01)
    store.close()


def test_the_percentile_is_that_of_windows_in_which_the_group_ran(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(40):
        ms = number - 19  # the first twenty windows have nothing of the group
        content = [([make.HOT], {"http.route": "/"}, [ms * 1_000_000, 1])] if ms > 0 else []
        assert store.write([window(NOW - 60 * number, content=content)]) == [None]
    (row,) = query.table(store, Selection("cpu", NOW - 7200, NOW + 60, "shop"))["rows"]
    assert row["windows"] == 20
    assert row["p95"] == pytest.approx(19e6 / 10, rel=0.01), "19 of the 20 do not exceed it"
    assert row["max"] == pytest.approx(20e6 / 10, rel=0.001)
    store.close()


def test_a_range_of_several_files_adds_up(tmp_path: Path) -> None:
    """The percentile is that of all windows, to the one percent that the bins are wide."""
    store = Store(tmp_path)
    ends = [NOW - day * DAY_S - 50 * number for day in range(3) for number in range(20)]
    content = [
        [([make.MAIN, make.HOT], {"http.route": "/"}, [(number + 1) * 1_000_000, 1])]
        for number in range(60)
    ]
    uploads = [window(end, content=rows) for end, rows in zip(ends, content, strict=True)]
    assert store.write(uploads) == [None] * 60
    assert len(store.segments()) >= 3, "the premise: one file a day"
    whole = Selection("cpu", 0, NOW + 100, "shop")
    (row,) = query.table(store, whole)["rows"]
    assert row["total"] == sum(range(1, 61)) * 1_000_000
    assert row["windows"] == 60
    seconds = (uploads[0].end_ns - uploads[0].start_ns) / 1e9
    assert row["p95"] == pytest.approx(57e6 / seconds, rel=0.02)
    assert row["max"] == pytest.approx(60e6 / seconds, rel=0.001)
    lines = query.series(store, whole, DAY_S, "http.route")["lines"]
    assert lines[0]["value"] == "/"
    assert sum(lines[0]["values"]) * DAY_S == pytest.approx(row["total"], rel=0.01)
    store.close()


def test_answers_about_whole_days_are_kept_until_the_day_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve days, of which two may keep their stacks in memory: the others are asked without."""
    monkeypatch.setattr("conprof_core.agent.store._NODES_KEPT", 1)
    store = Store(tmp_path)
    noon = (int(NOW) // DAY_S) * DAY_S - DAY_S // 2
    ends = [noon - day * DAY_S for day in range(12)]
    assert store.write([window(end) for end in ends]) == [None] * 12
    assert len(store.segments()) == 12
    assert total(store) == 1_200_000_000
    assert sum(s._tables is not None for s in store.segments()) == 2, "the premise"
    asked = 0

    def everything() -> tuple[object, ...]:
        found = query.table(store, EVERYTHING)
        keys = {entry["key"]: entry for entry in query.labels(store, EVERYTHING)}
        (service,) = query.services(store, 0, NOW)
        hosts = {value["value"] for value in keys["host"]["values"]}
        return total(store), found["total"], service["types"][0]["total"], hosts

    first = everything()
    assert first == (1_200_000_000, 1_200_000_000, 1_200_000_000, {"web-1"})
    real = store.connection

    class Counting:
        def cursor(self) -> object:
            nonlocal asked
            asked += 1
            return real.cursor()

    store.connection = Counting()  # type: ignore[assignment]
    query.table(store, EVERYTHING)
    query.services(store, 0, NOW + 50)
    assert asked == 0, "whole days are not asked again"
    store.connection = real
    late = window(ends[7] - 60, tags_profiler="service:shop,host:web-late")
    assert store.write([late]) == [None]
    assert everything() == (
        1_300_000_000,
        1_300_000_000,
        1_300_000_000,
        {"web-1", "web-late"},
    )
    part = Selection("cpu", ends[7] - 40, NOW, "shop")
    assert total(store, part) == query.table(store, part)["total"] == 800_000_000
    store.close()


def test_of_ranges_that_touch_one_has_a_window_and_what_is_stored_in_this_second_is_there() -> None:
    def seconds(from_s: float, to_s: float) -> set[int]:
        wanted = Selection("cpu", from_s, to_s).time_condition(0)
        rows = duckdb.sql(
            f"SELECT middle_s FROM range(60) AS windows(middle_s) WHERE {wanted}"
        ).fetchall()
        return {row[0] for row in rows}

    assert seconds(10.2, 21.6) | seconds(21.6, 30.0) == set(range(11, 30))
    assert not seconds(10.2, 21.6) & seconds(21.6, 30.0)
    assert 21 in seconds(10.2, 21.001), "stored in the second that has begun"
