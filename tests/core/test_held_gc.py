"""A snapshot's objects do not make the collector run over the application's heap."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest

from conprof_core._engine.tasks import snapshot
from conprof_core._held_gc import HELD_THRESHOLD, HeldCollector
from tests.support.process import run_script


@pytest.fixture(autouse=True)
def threshold() -> Iterator[None]:
    saved = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*saved)


def test_it_is_held_and_given_back() -> None:
    with HeldCollector():
        with HeldCollector():
            assert gc.get_threshold()[0] == HELD_THRESHOLD
        assert gc.get_threshold()[0] == HELD_THRESHOLD
    assert gc.get_threshold()[0] == 700


@pytest.mark.parametrize("young", [0, 50_000])
def test_what_is_off_or_rarer_stays_so(young: int) -> None:
    gc.set_threshold(young)
    with HeldCollector():
        assert gc.get_threshold()[0] == young
    assert gc.get_threshold()[0] == young


def test_what_the_application_sets_meanwhile_is_kept() -> None:
    with HeldCollector():
        gc.set_threshold(1234)
    assert gc.get_threshold()[0] == 1234


def test_a_snapshot_of_many_tasks_makes_no_full_collection() -> None:
    async def suspended(event: asyncio.Event) -> None:
        await event.wait()

    async def main() -> list[tuple[int, int]]:
        event = asyncio.Event()
        tasks = [asyncio.create_task(suspended(event)) for _ in range(5_000)]
        await asyncio.sleep(0)
        runs: list[tuple[int, int]] = []

        def note(phase: str, info: dict[str, Any]) -> None:
            if phase == "start":
                runs.append((info["generation"], len(runs)))

        gc.collect()
        gc.callbacks.append(note)
        try:
            taken = snapshot()
        finally:
            gc.callbacks.remove(note)
        assert taken.total("task") == len(tasks) + 1, "the premise: there was work"
        event.set()
        await asyncio.gather(*tasks)
        return runs

    runs = asyncio.run(main())
    assert len(runs) < 10, "once for each 20 000 objects, not for each 700"
    assert all(generation < 2 for generation, _ in runs)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_within_has_the_applications() -> None:
    run_script(
        """
import gc, os, warnings
from conprof_core._held_gc import HELD_THRESHOLD, HeldCollector
from conprof_core.testing import capture
warnings.simplefilter("ignore")
gc.set_threshold(700)

with capture():
    with HeldCollector():
        assert gc.get_threshold()[0] == HELD_THRESHOLD
        pid = os.fork()
        if pid == 0:
            os._exit(gc.get_threshold()[0] != 700)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""
    )
