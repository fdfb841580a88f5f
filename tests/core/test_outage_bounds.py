"""An outage longer than the bounds: memory stays flat, everything is counted, nobody waits."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest
from support.fake_agent import FakeAgent, Fault

import conprof_core as conprof
from conprof_core import Profiler
from conprof_core._limits import MAX_QUEUED_BYTES, MAX_QUEUED_WINDOWS

from .conftest import burn

WINDOWS = 200  # two and a half hours at 45 s


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_flat_and_everything_is_counted(engine: str, agent: FakeAgent) -> None:
    agent.refuse()
    profiler = Profiler(agent_socket=agent.url, period=3600)
    profiler.start()
    measured: list[int] = []
    profiler.observe(lambda rows: measured.append(sum(row.cpu_ns for row in rows)))
    try:
        for number in range(WINDOWS):
            if number == WINDOWS // 4:
                before = resident_bytes()
            burn(0.002)
            assert profiler.flush(5) is False
        grown = resident_bytes() - before
        during = profiler.stats()
        (queue,) = during["exporters"]
        assert queue["queued"] == MAX_QUEUED_WINDOWS
        assert queue["queued_bytes"] <= MAX_QUEUED_BYTES
        assert queue["dropped"] == WINDOWS - MAX_QUEUED_WINDOWS
        assert grown < 4_000_000, "the windows beyond the bound are gone"
        agent.listen()
        assert profiler.flush(30)
    finally:
        profiler.stop()
    uploads = agent.accepted
    sequences = [int(upload.tags["profile_seq"]) for upload in uploads]
    # The youngest came, in order, with their own times.
    first = WINDOWS - MAX_QUEUED_WINDOWS + 1  # the flush that delivered made room for its own
    assert sequences[:MAX_QUEUED_WINDOWS] == list(range(first, first + MAX_QUEUED_WINDOWS))
    starts = [upload.event["start"] for upload in uploads]
    assert starts == sorted(set(starts))
    # What arrives tells of all that did not, also where what should have told it was lost.
    lost = sum(int(upload.tags.get("conprof_lost_windows_dropped", 0)) for upload in uploads)
    untold = sequences[0] - lost  # dropped for the last windows, which nothing came after
    assert lost > WINDOWS // 2
    assert 0 <= untold <= 1
    assert profiler.stats()["running"] is False


@pytest.mark.parametrize(
    "fault", [Fault("hang", seconds=60), Fault("slow", seconds=0.05)], ids=["half-open", "trickles"]
)
def test_the_application_never_waits(engine: str, agent: FakeAgent, fault: Fault) -> None:
    """While an upload hangs for as long as this test lasts, what requests do goes on."""
    agent.always = fault
    conprof.start(agent_socket=agent.url, period=0.2, upload_timeout=60)
    longest = 0.0
    requests = 0
    try:
        deadline = time.monotonic() + 30
        while not agent.connections:
            assert time.monotonic() < deadline, "premise: an upload is under way"
            burn(0.01)
        until = time.monotonic() + 2.0
        while time.monotonic() < until:
            began = time.monotonic()
            with conprof.request_scope({"http.route": "/"}) as scope, conprof.labels(a="b"):
                scope.bind({"http.route": "/x"})
                thread = threading.Thread(target=burn, args=(0.001,))
                thread.start()
                thread.join()
                conprof.stats()
            longest = max(longest, time.monotonic() - began)
            requests += 1
        assert conprof.stats()["exported"] == 0, "premise: it hangs still"
    finally:
        agent.always = None
        agent.refuse()
        conprof.stop()
    assert requests > 5
    assert longest < 1.9, "none lasted as long as the outage, let alone the upload"
