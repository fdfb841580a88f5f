"""How densely allocations are sampled: as asked for, or as a load allows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from conprof_core import _config, _native, _session, flush
from conprof_core._limits import HEAP_RATE_HZ, HEAP_SAMPLE_BYTES
from conprof_core.testing import capture

pytestmark = pytest.mark.native_core

PATIENCE_S = 150.0 if "CONPROF_UNDER_SANITIZER" in os.environ else 60.0


def mean() -> int:
    return _native.stats()["heap_mean_bytes"]


def churn(until: Callable[[], bool], size: int = 20_000) -> int:
    """Allocate and free, as fast as it goes; how many bytes that were."""
    body, count, end = size - bytes.__basicsize__, 0, time.monotonic() + PATIENCE_S
    while not until():
        assert time.monotonic() < end
        for _ in range(500):
            bytes(body)
        count += 500
    return count * size


def lull(until: Callable[[], bool], size: int = 500_000) -> None:
    """Allocate little at a time, but enough that samples come."""
    end = time.monotonic() + PATIENCE_S
    while not until():
        assert time.monotonic() < end
        time.sleep(0.01)
        bytes(size)


def after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def test_a_load_is_sampled_at_a_bounded_rate_and_told_right() -> None:
    with capture(profile_types="heap") as captured:
        assert mean() == HEAP_SAMPLE_BYTES
        total = churn(lambda: mean() > 2 * HEAP_SAMPLE_BYTES)
        total += churn(after(2))
        before, began = _native.stats()["heap_samples"], time.monotonic()
        loaded = churn(after(2))
        seconds = time.monotonic() - began
        samples = _native.stats()["heap_samples"] - before
        lull(lambda: mean() == HEAP_SAMPLE_BYTES)
    due = loaded / HEAP_SAMPLE_BYTES / seconds
    assert due > 4 * HEAP_RATE_HZ, "the premise: it was a load"
    assert samples / seconds < 2 * HEAP_RATE_HZ
    told = sum(row.alloc_bytes for row in captured.rows if row.frames[0][0] == "churn")
    assert abs(told / (total + loaded) - 1) < 0.1


def test_a_mean_that_was_asked_for_stays() -> None:
    with capture(profile_types="heap", heap_sample_bytes=HEAP_SAMPLE_BYTES):
        loaded = churn(after(8 + 1))
        assert mean() == HEAP_SAMPLE_BYTES
        samples = _native.stats()["heap_samples"]
    assert loaded / HEAP_SAMPLE_BYTES > 9 * 2 * HEAP_RATE_HZ, "the premise: it was a load"
    assert abs(samples * HEAP_SAMPLE_BYTES / loaded - 1) < 0.2


def test_live_blocks_keep_the_mean_that_chose_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_config, "HEAP_SAMPLE_BYTES", 2048)
    monkeypatch.setattr(_session, "HEAP_RATE_HZ", 5000)
    body = 400 - bytes.__basicsize__

    def early() -> list[bytes]:
        return [bytes(body) for _ in range(25_000)]

    def loaded() -> list[bytes]:
        return [bytes(body) for _ in range(250_000)]

    def late() -> list[bytes]:
        return [bytes(body) for _ in range(200_000)]

    def live(make: Callable[[], list[bytes]]) -> float:
        rows = (row for row in captured.rows if any(f[0].endswith(make.__name__) for f in row[0]))
        return sum(row.inuse_bytes for row in rows)

    with capture(profile_types="heap") as captured:
        kept = [early()]
        churn(lambda: mean() >= 2048 * 8)
        kept.append(loaded())
        assert mean() >= 2048 * 2, "the premise: these stood for more"
        flush()
        assert (live(early), live(loaded)) == (
            pytest.approx(10_000_000, rel=0.1),
            pytest.approx(100_000_000, rel=0.25),
        )
        lull(lambda: mean() == 2048, 10_000)
        lull(after(8), 10_000)  # the credit, with which the table fills at once
        kept.append(late())
        flush()
        lull(after(1), 10_000)
        captured.rows.clear()
        assert mean() > 2048, "the premise: the table filled"
    assert [live(early), live(loaded), live(late)] == [
        pytest.approx(10_000_000, rel=0.1),
        pytest.approx(100_000_000, rel=0.25),
        pytest.approx(80_000_000, rel=0.1),
    ]
    del kept
