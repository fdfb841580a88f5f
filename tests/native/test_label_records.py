"""The table of label sets: what comes and goes leaves no trace in it."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Iterator

import pytest

from conprof_core import _labels, _native, flush
from conprof_core.testing import capture

pytestmark = pytest.mark.native_core

# Sets that may be alive at once (labels.h).
MAX_ALIVE = 4096


@pytest.fixture
def base() -> Iterator[int]:
    """Sets are freed by the drain; what is alive before, and stays so."""
    _labels._sets.clear()
    gc.collect()
    with capture(cpu_profile_rate=1000):
        settle()
        yield alive()


def alive() -> int:
    return _native.stats()["label_sets"]


def settle(down_to: int | None = None) -> None:
    """End windows until so few sets are alive, or nothing more happens: that frees them."""
    until = time.monotonic() + 30
    before = -1
    while time.monotonic() < until:
        flush()
        now = alive()
        if now <= down_to if down_to is not None else now == before:
            return
        before = now
    raise AssertionError(f"{alive()} sets are alive after half a minute, not {down_to}")


def made(first: int, count: int) -> list[_native.LabelSet]:
    return [_native.intern_labels({"route": f"/{first + i}"}) for i in range(count)]


def cost(first: int) -> float:
    """CPU seconds for 100 sets that were never there; the least of some tries."""
    least = 1.0
    for turn in range(15):
        settle(MAX_ALIVE - 100)
        began = time.thread_time()
        kept = made(first + 100 * turn, 100)
        least = min(least, time.thread_time() - began)
        del kept
    return least


def test_sets_that_are_gone_make_no_search_longer(base: int) -> None:
    """An application with many routes: sets come and go while there is hardly room for more."""
    few = 100
    kept = made(0, MAX_ALIVE - few - base)
    fresh = cost(1_000_000)
    for turn in range(1200):
        settle(base + len(kept))
        kept = kept[few:] + made(10_000 + few * turn, few)
        assert alive() > MAX_ALIVE - 2 * few, "the premise: there was room, and hardly more"
    settle(base + len(kept))
    # It was 6 to 10 times as long.
    assert cost(2_000_000) < 4 * fresh


def test_each_content_has_one_record_whatever_came_and_went(base: int) -> None:
    choice = random.Random(16)
    kept: dict[int, _native.LabelSet] = {}
    for _ in range(12):
        for number in choice.sample(range(3000), 1500):
            if kept.pop(number, None) is None:
                kept[number] = made(number, 1)[0]
        settle(base + len(kept))
        # Again by content: had a gap cut one off, it would be there twice.
        again = [made(number, 1)[0] for number in kept]
        assert alive() <= base + len(kept)
        del again
    kept.clear()
    settle(base)
