"""Windows cut, joined, encoded and let go in several threads while samples come in."""

from __future__ import annotations

import threading
import time

import pytest

from conprof_core import _native
from conprof_core._engine import EngineSettings, Part
from conprof_core._engine.native import NativeEngine
from conprof_core._labels import labels
from conprof_core.exporters import naming
from conprof_core.exporters.naming import Measured

pytestmark = pytest.mark.native_core

TYPES = Measured(500, ("cpu", "heap"), 4096)


def work(number: int) -> None:
    kept: list[bytes] = []
    for turn in range(200):
        with labels(job=str(number), turn=str(turn)):
            kept.append(bytes(5_000))
            sum(range(2_000))


def test_windows_are_joined_while_the_next_one_fills() -> None:
    engine = NativeEngine()
    settings = EngineSettings(500, 3600.0, 1000, lambda: None, heap_bytes=4096)
    engine.start(settings, lambda: 3600.0)
    ended = threading.Event()
    totals: list[int] = []

    def read() -> None:
        pieces = []
        while not ended.is_set():
            window = engine.take_window(ends_period=False)
            pieces.append(window)
            if len(pieces) == 4:
                parts = [Part(one) for one in pieces]
                for bound in (0, 5):
                    joined = engine.join(parts, start_ns=1, end_ns=2, max_label_sets=bound)
                    assert joined.cpu_ns == sum(one.cpu_ns for one in pieces)
                    for shape in naming.pull(TYPES).shapes:
                        assert joined.encode_pprof(shape, naming.pull(TYPES), mapping_file="python")
                totals.append(joined.cpu_ns)
                pieces.clear()
            time.sleep(0.005)

    readers = [threading.Thread(target=read) for _ in range(3)]
    try:
        for reader in readers:
            reader.start()
        until = time.monotonic() + 2
        while time.monotonic() < until or not totals:
            workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
    finally:
        ended.set()
        for reader in readers:
            reader.join()
        engine.stop()
        engine.take_window()
    assert sum(totals) > 0, "premise: there was something to join"


def test_what_is_no_part_is_refused() -> None:
    window = _native.take_window()
    options = {"start_ns": 1, "end_ns": 2, "max_stacks": 10, "max_label_sets": 0, "threads": True}
    for bad in (1, (1,), ((window,),), ((1, 0, 0),), ((window, 1, "x"),), ((window, 1, 0, 0),)):
        with pytest.raises(TypeError):
            _native.join(bad, **options)  # type: ignore[arg-type]
    assert _native.join((), **options).samples == 0  # type: ignore[arg-type]
