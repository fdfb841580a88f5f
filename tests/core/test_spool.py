"""The spool: bounded, in order, never twice, whole after a kill; a disk that fails is no end."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.fake_agent import FakeAgent, answer
from support.process import run_script, start_script

from conprof_core import ConfigError, _log, testing
from conprof_core._options import OPTION_NAMED
from conprof_core.exporters import EncodedProfile, EncodedWindow, Outcome, Verdict
from conprof_core.exporters import queue as queue_module
from conprof_core.exporters import spool as spool_module
from conprof_core.exporters.queue import ExportQueue
from conprof_core.exporters.spool import Spool, pack, place_of, unpack

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no flock")

AWAY = Outcome(Verdict.RETRY, "connection refused")
THERE = Outcome(Verdict.DELIVERED)
LIMIT = 1 << 20


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries and looks for left directories come at once."""
    monkeypatch.setattr(queue_module, "BACKOFF_FIRST_S", 0.0)
    monkeypatch.setattr(spool_module, "ADOPT_EVERY_S", 0.0)


def window(sequence: int, size: int = 100) -> EncodedWindow:
    return EncodedWindow(
        profiles=(
            EncodedProfile("cpu", bytes([sequence % 256]) * size),
            EncodedProfile("heap", b"h"),
        ),
        start_ns=10**18 + sequence * 10,
        end_ns=10**18 + sequence * 10 + 9,
        sequence=sequence,
        service="shop",
        tags={"service": "shop", "tier": "wéb", "broken": "\udcff"},
        counters={"truncated": 3},
        process_id=77,
        samples=5,
        requests={"/a": 4},
    )


def make_queue(place: Path, limit: int = LIMIT) -> tuple[ExportQueue, testing.MemoryExporter]:
    memory = testing.MemoryExporter()
    return ExportQueue(memory, Spool(str(place), limit)), memory


def sequences(memory: testing.MemoryExporter) -> list[int]:
    return [each.sequence for each in memory.windows]


def files(place: Path) -> list[Path]:
    return sorted(place.rglob("*.window"))


def test_a_window_comes_back_as_it_was() -> None:
    assert unpack(pack(window(3))) == window(3)


@pytest.mark.parametrize("cut", [0, 5, 18, 20, 60, 300, -1])
def test_a_cut_file_is_an_error(cut: int) -> None:
    with pytest.raises(ValueError, match=r"damaged|no spooled window"):
        unpack(pack(window(3))[:cut])


def test_an_outage_goes_to_disk_and_comes_back_in_order(tmp_path: Path) -> None:
    queue, memory = make_queue(tmp_path)
    queue.submit(window(0))
    assert queue.drain(1)
    assert list(tmp_path.iterdir()) == [], "nothing is written while the destination is there"
    memory.outcome = AWAY
    for number in range(1, 60):
        queue.submit(window(number))
        assert not queue.drain(1)
    assert len(queue) == 59
    assert queue.queued_bytes == 0, "memory is flat: all of it is on disk"
    assert len(files(tmp_path)) == 59
    memory.outcome = THERE
    queue.submit(window(60))
    assert queue.drain(1, force=True)
    assert memory.windows == [window(number) for number in range(61)]
    assert (queue.dropped, len(queue)) == (0, 0)
    assert files(tmp_path) == []
    queue.close()
    assert list(tmp_path.iterdir()) == [], "and nothing is left behind"


def test_the_oldest_gives_way_to_the_bound(tmp_path: Path) -> None:
    size = len(pack(window(0, 10_000)))
    queue, memory = make_queue(tmp_path, limit=5 * size + 100)
    memory.outcome = AWAY
    for number in range(9):
        queue.submit(window(number, 10_000))
        queue.drain(1)
        assert sum(path.stat().st_size for path in files(tmp_path)) <= 5 * size + 100
    assert (len(queue), queue.dropped) == (5, 4)
    memory.outcome = THERE
    queue.drain(1, force=True)
    assert sequences(memory) == [4, 5, 6, 7, 8]
    queue.close()


def test_what_a_process_left_is_adopted_by_one(tmp_path: Path) -> None:
    first, away = make_queue(tmp_path)
    away.outcome = AWAY
    for number in range(4):
        first.submit(window(number))
        first.drain(1)
    second, memory = make_queue(tmp_path)
    assert second.drain(1)
    assert memory.windows == [], "the first lives: its lock is held"
    first.close()
    third, other = make_queue(tmp_path)
    other.outcome = AWAY
    third.drain(1)
    assert len(third) == 4
    assert second.drain(1)
    assert memory.windows == [], "the third was first"
    third.close()
    assert second.drain(1)
    assert memory.windows == [window(number) for number in range(4)]
    assert second.stats()["adopted"] == 4
    assert list(tmp_path.iterdir()) == []
    second.close()


def test_a_forked_child_leaves_the_lock_to_the_parent(tmp_path: Path) -> None:
    parent, away = make_queue(tmp_path)
    away.outcome = AWAY
    parent.submit(window(0))
    parent.drain(1)
    inherited = parent._spool
    assert inherited is not None
    locks = [inherited._own.lock] if inherited._own else []
    (lock,) = locks
    child = os.fork()
    if child == 0:
        parent.forget()
        try:
            os.fstat(lock)
        except OSError:
            os._exit(0 if len(parent) == 0 else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(files(tmp_path)) == 1
    other, memory = make_queue(tmp_path)
    other.drain(1)
    assert memory.windows == [], "the parent still holds it"
    other.close()
    parent.close()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``size``: what a full disk does to a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_falls_back_to_memory_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    queue, memory = make_queue(tmp_path)
    memory.outcome = AWAY
    queue.submit(window(0))
    queue.drain(1)
    with largest_file(1_000):
        for number in range(1, 4):
            queue.submit(window(number, 50_000))
            queue.drain(1)
    spool = queue.stats()
    assert spool["spooled"] == 1, "premise: the disk took no more"
    assert spool["spool_errors"]
    assert len(queue) == 4
    assert len([text for text in caplog.messages if "takes no window" in text]) == 1
    assert list(tmp_path.rglob("*.tmp")) == []
    queue.submit(window(4))
    queue.drain(1)  # there is room again
    assert len(files(tmp_path)) == 5
    memory.outcome = THERE
    assert queue.drain(1, force=True)
    assert sequences(memory) == [0, 1, 2, 3, 4]
    assert queue.dropped == 0
    queue.close()


def test_a_full_disk_does_not_unbound_memory(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("no directory can be made here")
    queue, memory = make_queue(place)
    memory.outcome = AWAY
    for number in range(40):
        queue.submit(window(number))
        queue.drain(1)
    assert (len(queue), queue.dropped) == (16, 24)
    memory.outcome = THERE
    queue.drain(1, force=True)
    assert sequences(memory) == list(range(24, 40))
    queue.close()


def test_damaged_and_missing_files_are_counted(tmp_path: Path) -> None:
    queue, memory = make_queue(tmp_path)
    memory.outcome = AWAY
    for number in range(4):
        queue.submit(window(number))
        queue.drain(1)
    damaged, missing = files(tmp_path)[:2]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    missing.unlink()
    memory.outcome = THERE
    assert queue.drain(1, force=True)
    assert sequences(memory) == [2, 3]
    assert queue.dropped == 2
    queue.close()


def test_a_directory_that_was_cleaned_away_is_made_again(tmp_path: Path) -> None:
    import shutil

    queue, memory = make_queue(tmp_path)
    memory.outcome = AWAY
    queue.submit(window(0))
    queue.drain(1)
    for each in tmp_path.iterdir():
        shutil.rmtree(each)
    queue.submit(window(1))
    queue.drain(1)
    memory.outcome = THERE
    assert queue.drain(1, force=True)
    assert sequences(memory) == [1]
    assert (queue.dropped, queue.stats()["spool_errors"]) == (1, 0)
    queue.close()


def test_services_and_destinations_do_not_meet(tmp_path: Path) -> None:
    places = {
        place_of(str(tmp_path), service, destination)
        for service in ("shop", "shop!", "")
        for destination in ("Blackfire Agent at tcp://a:1", "directory /a")
    }
    assert len(places) == 6
    assert all(Path(place).parent == tmp_path for place in places)


def test_options() -> None:
    assert OPTION_NAMED["spool_dir"].parse("spool_dir", Path("/var/spool/x")) == "/var/spool/x"
    with pytest.raises(ConfigError):
        OPTION_NAMED["spool_bytes"].parse("spool_bytes", "12")


SCRIPT = """
import sys, time
import conprof_core as conprof
from conprof_core.exporters import queue, spool
queue.BACKOFF_FIRST_S = 0.05
spool.ADOPT_EVERY_S = 0.1
conprof.start(application_name="shop", period=0.3, upload_timeout=5, agent_socket=sys.argv[1],
              spool_dir=sys.argv[2])
def burn(cpu_s):
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(500))
"""
UNTIL_SPOOLED = """
while conprof.stats()["exporters"][0]["spooled"] < 4:
    burn(0.02)
print("READY", flush=True)
"""


@pytest.mark.leaves_process
def test_what_a_killed_process_spooled_is_sent_by_the_next(
    agent: FakeAgent, tmp_path: Path
) -> None:
    agent.always = answer(503)
    with start_script(
        SCRIPT + UNTIL_SPOOLED + "while True: burn(0.01)", agent.url, str(tmp_path)
    ) as process:
        process.wait_ready()
        process.signal(signal.SIGKILL)
        assert process.finish().returncode == -signal.SIGKILL
        killed = process.pid
    left = len(files(tmp_path))
    assert left >= 4, "premise: windows are on disk"
    agent.always = None
    rest = """
while conprof.stats()["exporters"][0]["adopted"] < 4 or conprof.stats()["queued"]:
    burn(0.02)
conprof.stop()
"""
    run_script(SCRIPT + rest, agent.url, str(tmp_path))
    arrived: dict[int, str] = {}
    for upload in agent.accepted:
        if upload.tags["process_id"] == str(killed):
            arrived.setdefault(int(upload.tags["profile_seq"]), upload.event["start"])
    assert list(arrived) == list(range(left)), "in order, with the tags of the process that died"
    assert list(arrived.values()) == sorted(set(arrived.values()))
    assert files(tmp_path) == []


@pytest.mark.leaves_process
def test_the_end_of_a_process_in_an_outage_loses_nothing(agent: FakeAgent, tmp_path: Path) -> None:
    agent.always = answer(503)
    ending = 'conprof.stop()\nprint("SENT", flush=True)'
    run_script(SCRIPT + UNTIL_SPOOLED + ending, agent.url, str(tmp_path))
    found = [unpack(path.read_bytes()) for path in files(tmp_path)]
    assert len(found) >= 5
    assert sorted(each.sequence for each in found) == list(range(len(found)))
    assert _log.internal_errors == {}
