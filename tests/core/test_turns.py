"""The switch interval is short while a window is sent, and the application's own otherwise."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

import pytest

import conprof_core as conprof
from conprof_core._turns import TURN_US, ShortTurns
from conprof_core.exporters import EncodedWindow, Outcome
from conprof_core.testing import MemoryExporter
from tests.support.process import run_script


def interval_us() -> int:
    return round(sys.getswitchinterval() * 1e6)


@pytest.fixture(autouse=True)
def own_interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.005)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def native(engine: str) -> None:
    """Only the drain of the native engine asks the main thread."""
    if engine != "native":
        pytest.skip("the portable engine has nobody who could ask without the GIL")


def test_short_within_and_restored_after() -> None:
    with ShortTurns():
        with ShortTurns():
            assert interval_us() == TURN_US
        assert interval_us() == TURN_US
    assert interval_us() == 5_000


def test_a_shorter_interval_of_the_application_stays() -> None:
    sys.setswitchinterval(0.0001)
    with ShortTurns():
        assert interval_us() == 100
    assert interval_us() == 100


def test_an_interval_set_meanwhile_is_kept() -> None:
    with ShortTurns():
        sys.setswitchinterval(0.02)
    assert interval_us() == 20_000


def test_ours_restored_by_the_application_heals() -> None:
    with ShortTurns():
        saved = sys.getswitchinterval()
    sys.setswitchinterval(saved)
    assert interval_us() == TURN_US, "the premise"
    with ShortTurns():
        pass
    assert interval_us() == 5_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_within_has_the_applications() -> None:
    run_script(
        """
import os, sys, warnings
import conprof_core as conprof
from conprof_core._turns import TURN_US, ShortTurns
from conprof_core.testing import capture
warnings.simplefilter("ignore")

with capture():
    with ShortTurns():
        assert round(sys.getswitchinterval() * 1e6) == TURN_US
        pid = os.fork()
        if pid == 0:
            os._exit(round(sys.getswitchinterval() * 1e6) != 5000)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""
    )


class Witness(MemoryExporter):
    """Notes the interval that an upload meets."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def export(self, window: EncodedWindow, timeout_s: float) -> Outcome:
        self.seen.append(interval_us())
        return super().export(window, timeout_s)


def test_uploads_have_it() -> None:
    witness = Witness()
    profiler = conprof.Profiler(exporters=[witness], cpu_duration=0.2, period=0.2)
    profiler.start()
    until = time.monotonic() + 20
    while not witness.seen and time.monotonic() < until:
        time.sleep(0.05)
    by_tick = len(witness.seen)
    assert conprof.flush()
    profiler.stop()
    assert 0 < by_tick < len(witness.seen), "the premise: a tick and a flush uploaded"
    assert set(witness.seen) == {TURN_US}
    assert interval_us() == 5_000


@pytest.mark.parametrize("numbers", [5_000, 20_000, 100_000], ids="hold {} numbers".format)
def test_windows_leave_while_the_main_thread_hogs_the_gil(native: None, numbers: int) -> None:
    """It offers the GIL all the time, for a moment, and so is never asked for it by CPython."""
    run_script(
        """
import os, sys, time
from conprof_core.testing import capture

null = os.open(os.devnull, os.O_WRONLY)
with capture(cpu_duration=0.5, period=0.5) as captured:
    until = time.monotonic() + 20
    while time.monotonic() < until and len(captured.windows) < 2:
        for _ in range(20):
            sum(range(int(sys.argv[1])))
            os.write(null, b".")
    assert len(captured.windows) >= 2, len(captured.windows)
""",
        str(numbers),
    )


def test_an_agent_that_hangs_costs_the_main_thread_few_turns(native: None) -> None:
    """Who waits for an agent looks like who waits for the GIL: asking becomes rare."""
    run_script(
        """
import time
import conprof_core as conprof
from conprof_core.exporters import EncodedWindow, Outcome
from conprof_core.testing import MemoryExporter

class Slow(MemoryExporter):
    def export(self, window: EncodedWindow, timeout_s: float) -> Outcome:
        time.sleep(4)
        return super().export(window, timeout_s)

profiler = conprof.Profiler(exporters=[Slow()], cpu_duration=0.2, period=0.2)
profiler.start()
until = time.monotonic() + 4
while time.monotonic() < until:
    sum(range(1000))
asked = conprof.stats()["engine_stats"]["turns_asked"]
assert 0 < asked < 120, asked
profiler.stop()
"""
    )
