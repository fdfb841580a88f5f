"""Label cells as the handler reads them: through the context's tree, at the right moment."""

from __future__ import annotations

import asyncio
import contextvars
import time
from typing import Any

import pytest
from support.check_valid import check_bytes

from conprof_core import _native
from conprof_core.testing import Captured, capture

pytestmark = pytest.mark.native_core


def burn(cpu_s: float) -> None:
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(500))


def by_labels(captured: Captured, function: str = "burn") -> dict[tuple[Any, ...], float]:
    found: dict[tuple[Any, ...], float] = {}
    for row in captured.rows:
        if any(frame[0] == function for frame in row.frames):
            found[row.labels] = found.get(row.labels, 0) + row.cpu_ns / 1e9
    return found


@pytest.mark.parametrize("others", [0, 1, 15, 16, 120, 1000])
def test_found_among_other_variables(others: int) -> None:
    """The tree has bitmap nodes when small, array nodes when large."""
    cell = _native.LabelCell(_native.intern_labels({"k": "v"}))

    def work() -> None:
        for i in range(others):
            contextvars.ContextVar(f"other_{i}").set(i)
        burn(0.2)
        token = _native.context_var.set(cell)
        burn(0.4)
        _native.context_var.reset(token)
        burn(0.2)

    with capture(cpu_profile_rate=1000) as captured:
        contextvars.Context().run(work)
    found = by_labels(captured)
    assert set(found) == {(), (("k", "v"),)}
    # A sample's weight reaches back to the one before: some ms at each change of labels, and tens
    # of them where a virtual machine's processor was taken away meanwhile.
    assert abs(found[("k", "v"),] - 0.4) < 0.12


def test_bound_late_holds_for_earlier_samples() -> None:
    base, final = _native.intern_labels({"m": "GET"}), _native.intern_labels({"r": "/x"})
    cell = _native.LabelCell(base, provisional=True)
    token = _native.context_var.set(cell)
    with capture(cpu_profile_rate=1000) as captured:
        burn(0.2)
        cell.bind(final)
        burn(0.1)
    _native.context_var.reset(token)
    assert not cell.provisional
    found = by_labels(captured)
    assert set(found) == {(("r", "/x"),)}, found
    assert abs(found[("r", "/x"),] - 0.3) < 0.12, found


def test_never_bound_keeps_its_base() -> None:
    cell = _native.LabelCell(_native.intern_labels({"m": "GET"}), provisional=True)
    token = _native.context_var.set(cell)
    with capture(cpu_profile_rate=1000) as captured:
        burn(0.1)
    _native.context_var.reset(token)
    assert by_labels(captured).keys() == {(("m", "GET"),)}


def test_sets_are_interned_sorted_and_the_later_pair_wins() -> None:
    first = _native.intern_labels([("b", "1"), ("a", "ü名"), ("b", "2")])
    assert first.items() == (("a", "ü名"), ("b", "2"))
    assert _native.intern_labels({}).items() == ()
    with pytest.raises(TypeError):
        _native.intern_labels([("a", 1)])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="at most 64"):
        _native.intern_labels({f"k{i}": "" for i in range(65)})
    with pytest.raises(UnicodeEncodeError):
        _native.intern_labels({"a": "\ud800"})


def test_too_many_distinct_sets_share_one_that_says_so() -> None:
    before = _native.stats()["label_sets"]
    alive = [_native.intern_labels({"n": str(i)}) for i in range(5000)]
    over = alive[-1]
    assert over.items() == (("n", "4999"),), "the object keeps what was asked for"
    cell = _native.LabelCell(over)
    token = _native.context_var.set(cell)
    with capture(cpu_profile_rate=1000) as captured:
        burn(0.1)
    _native.context_var.reset(token)
    assert by_labels(captured).keys() == {(("conprof.overflow", "labels"),)}
    assert _native.stats()["label_sets_refused"] > 0
    del alive, over, cell, token
    # What died makes room again, once the drain has swept.
    with capture(cpu_profile_rate=1000):
        burn(0.25)
    assert _native.stats()["label_sets"] < before + 100
    assert _native.intern_labels({"fresh": "1"}).items() == (("fresh", "1"),)


def test_interleaved_tasks_keep_their_labels() -> None:
    async def request(name: str, cpu_s: float) -> None:
        token = _native.context_var.set(
            cell := _native.LabelCell(_native.intern_labels({"m": "GET"}), provisional=True)
        )
        await asyncio.sleep(0)
        cell.bind(_native.intern_labels({"route": name}))

        async def child() -> None:
            for _ in range(10):
                (work_a if name == "a" else work_b)(cpu_s / 20)
                await asyncio.sleep(0)

        task = asyncio.create_task(child())
        await asyncio.to_thread(work_a if name == "a" else work_b, cpu_s / 2)
        await task
        _native.context_var.reset(token)

    def work_a(cpu_s: float) -> None:
        burn(cpu_s)

    def work_b(cpu_s: float) -> None:
        burn(cpu_s)

    async def main() -> None:
        for _ in range(3):
            await asyncio.gather(request("a", 0.1), request("b", 0.05), request("a", 0.1))

    with capture(cpu_profile_rate=1000) as captured:
        asyncio.run(main())
    for name, work in (("a", work_a), ("b", work_b)):
        found = by_labels(captured, work.__qualname__)
        right = found.get((("route", name),), 0)
        assert right / sum(found.values()) >= 0.99, found


def test_a_set_that_dies_and_comes_back_is_one_row() -> None:
    def request() -> None:
        token = _native.context_var.set(
            _native.LabelCell(_native.intern_labels({"tenant": "acme"}))
        )
        burn(0.003)
        _native.context_var.reset(token)

    with capture(cpu_profile_rate=1000) as captured:
        for _ in range(100):
            request()
    keys = [(row.frames, row.labels, row.thread_name) for row in captured.rows]
    assert len(keys) == len(set(keys))
    assert by_labels(captured)[("tenant", "acme"),] > 0.25


def test_equal_content_is_one_sample() -> None:
    """Also where a user spells out the labels of the overflow set."""
    spelled = _native.intern_labels({"conprof.overflow": "labels"})
    many = [_native.intern_labels({"n": str(number)}) for number in range(5_000)]
    assert many[-1].items() == (("n", "4999"),)
    overflowed, known = _native.LabelCell(many[-1]), _native.LabelCell(spelled)
    with capture(cpu_profile_rate=1000) as captured:
        for _ in range(3):
            for cell in (overflowed, known):
                token = _native.context_var.set(cell)
                burn(0.05)
                _native.context_var.reset(token)
    del many
    profiles = [check_bytes(p.pprof_gz) for window in captured.windows for p in window.profiles]
    for profile in profiles:
        samples = [(*s.location_ids, *sorted(s.labels.items())) for s in profile.samples]
        assert len(samples) == len(set(samples))
    assert by_labels(captured)[("conprof.overflow", "labels"),] > 0.2
    with capture(cpu_profile_rate=1000):
        burn(0.25)  # what died is swept, so that the next test finds room
