"""How long live blocks have been alive: those older than some windows say so in a label."""

from __future__ import annotations

import itertools
import os

import pytest

from conprof_core import _native, flush
from conprof_core._engine import Row
from conprof_core.testing import capture

pytestmark = pytest.mark.native_core

MEAN = 4096


def make(count: int) -> list[bytes]:
    return [bytes(400 - bytes.__basicsize__) for _ in itertools.repeat(None, count)]


def alive(rows: list[Row], **labels: str) -> int:
    """Live bytes of make() under labels."""
    return sum(
        row.inuse_bytes
        for row in rows
        if any(frame[0].endswith("make") for frame in row.frames)
        and all(pair in row.labels for pair in labels.items())
    )


def near(value: float, truth: float) -> bool:
    return abs(value - truth) <= 0.15 * truth


OLD = {"heap.age": "old"}


@pytest.mark.parametrize("windows", [1, 3])
def test_what_has_seen_so_many_windows_end_is_old(windows: int) -> None:
    labels = _native.intern_labels({"http.route": "/cache"})
    with capture(profile_types="heap", heap_sample_bytes=MEAN, heap_old_windows=windows) as seen:
        token = _native.context_var.set(_native.LabelCell(labels))
        old = make(20_000)
        _native.context_var.reset(token)
        for _ in range(windows):
            seen.rows.clear()
            flush()
            assert near(alive(seen.rows), 8_000_000), "the premise: it is there"
            assert alive(seen.rows, **OLD) == 0
        seen.rows.clear()
        young = make(10_000)
    # The window that stop() closed.
    assert near(alive(seen.rows), 12_000_000)
    assert near(alive(seen.rows, **OLD), 8_000_000)
    assert alive(seen.rows, **OLD, **{"http.route": "/cache"}) == alive(seen.rows, **OLD)
    # Labels stay sorted, so that equal sets stay one; what is allocated has no age.
    for row in seen.rows:
        assert list(row.labels) == sorted(row.labels)
        assert not (row.alloc_bytes and ("heap.age", "old") in row.labels)
    del old, young


def test_nobody_asked() -> None:
    with capture(profile_types="heap", heap_sample_bytes=MEAN) as seen:
        kept = make(20_000)
        for _ in range(5):
            flush()
    assert near(alive(seen.rows), 6 * 8_000_000)
    assert alive(seen.rows, **OLD) == 0
    del kept


def test_without_room_for_a_label_set_old_blocks_keep_their_own() -> None:
    """The premise: the table of label sets is full, and says so."""
    labels = _native.intern_labels({"http.route": "/cache"})
    with capture(profile_types="heap", heap_sample_bytes=MEAN, heap_old_windows=1) as seen:
        token = _native.context_var.set(_native.LabelCell(labels))
        kept = make(20_000)
        _native.context_var.reset(token)
        flush()
        others = [_native.intern_labels({"n": str(number)}) for number in range(4_200)]
        refused = _native.stats()["label_sets_refused"]
        seen.rows.clear()
        flush()
        assert _native.stats()["label_sets_refused"] > refused
        assert near(alive(seen.rows, **{"http.route": "/cache"}), 8_000_000)
        assert alive(seen.rows, **OLD) == 0
        del others
        flush()
        seen.rows.clear()
    assert near(alive(seen.rows, **OLD), 8_000_000), "there is room again"
    del kept


@pytest.mark.leaves_process
def test_a_child_counts_its_own_windows() -> None:
    """What it inherited is not followed there, so nothing of it grows old."""
    with capture(profile_types="heap", heap_sample_bytes=MEAN, heap_old_windows=1) as seen:
        kept = make(20_000)
        flush()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                seen.rows.clear()
                mine = make(10_000)
                flush()
                young = (alive(seen.rows), alive(seen.rows, **OLD))
                seen.rows.clear()
                flush()
                aged = alive(seen.rows, **OLD)
                is_right = near(young[0], 4_000_000) and not young[1] and near(aged, 4_000_000)
                code = 0 if is_right else 2
                del mine
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    del kept
