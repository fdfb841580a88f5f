"""The export queue: bounded, in order, calm in an outage, and never silent about a loss."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from conprof_core import testing
from conprof_core._limits import MAX_QUEUED_BYTES, MAX_QUEUED_WINDOWS
from conprof_core.exporters import EncodedProfile, EncodedWindow, Outcome, Verdict
from conprof_core.exporters import queue as queue_module
from conprof_core.exporters.queue import ExportQueue

AWAY = Outcome(Verdict.RETRY, "connection refused")
THERE = Outcome(Verdict.DELIVERED)


def profile(sequence: int, data: bytes = b"x") -> EncodedWindow:
    return EncodedWindow(
        (EncodedProfile("cpu", data),), sequence * 10, sequence * 10 + 9, sequence, "shop", {}, {}
    )


@pytest.fixture
def memory() -> testing.MemoryExporter:
    return testing.MemoryExporter()


@pytest.fixture
def queue(memory: testing.MemoryExporter) -> ExportQueue:
    return ExportQueue(memory)


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """The tests see what a user sees by default: errors."""
    logger = logging.getLogger("conprof")
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


def sequences(memory: testing.MemoryExporter) -> list[int]:
    return [item.sequence for item in memory.windows]


def test_delivers_in_order(queue: ExportQueue, memory: testing.MemoryExporter) -> None:
    for number in range(3):
        queue.submit(profile(number))
    assert queue.next_due() == 0
    assert queue.drain(1)
    assert sequences(memory) == [0, 1, 2]
    assert queue.next_due() is None
    assert (queue.exported, queue.dropped, len(queue)) == (3, 0, 0)


def test_an_outage_is_two_lines_and_nothing_is_lost(
    queue: ExportQueue, memory: testing.MemoryExporter, caplog: pytest.LogCaptureFixture
) -> None:
    memory.outcome = AWAY
    for number in range(5):
        queue.submit(profile(number))
        assert not queue.drain(1, force=True)
    (line,) = caplog.messages
    assert "connection refused" in line
    memory.outcome = THERE
    assert queue.drain(1, force=True)
    assert len(caplog.messages) == 2
    assert "takes profiles again" in caplog.messages[1]
    assert "nothing was lost" in caplog.messages[1]
    assert sequences(memory) == [0, 1, 2, 3, 4]
    assert [item.start_ns for item in memory.windows] == [0, 10, 20, 30, 40]


def test_a_long_outage_drops_the_oldest_and_says_how_many(
    queue: ExportQueue, memory: testing.MemoryExporter, caplog: pytest.LogCaptureFixture
) -> None:
    memory.outcome = AWAY
    for number in range(MAX_QUEUED_WINDOWS + 4):
        queue.submit(profile(number))
        queue.drain(1, force=True)
    assert (len(queue), queue.dropped) == (MAX_QUEUED_WINDOWS, 4)
    memory.outcome = THERE
    assert queue.drain(1, force=True)
    assert sequences(memory) == list(range(4, MAX_QUEUED_WINDOWS + 4))
    assert len(caplog.messages) == 2
    assert "4 windows were dropped" in caplog.messages[1]


def test_bytes_are_bounded_too(queue: ExportQueue, memory: testing.MemoryExporter) -> None:
    memory.outcome = AWAY
    third = bytes(MAX_QUEUED_BYTES // 3)
    for number in range(5):
        queue.submit(profile(number, third))
    assert queue.queued_bytes <= MAX_QUEUED_BYTES
    assert (len(queue), queue.dropped) == (3, 2)
    queue.submit(profile(9, bytes(MAX_QUEUED_BYTES + 1)))
    assert len(queue) == 1, "one window is kept, whatever its size"


def test_backoff_grows_with_jitter_and_is_kept(
    queue: ExportQueue, memory: testing.MemoryExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(queue_module.time, "monotonic", lambda: now)
    memory.outcome = AWAY
    queue.submit(profile(0))
    for attempt in range(12):
        assert not queue.drain(1)
        due = queue.next_due()
        assert due is not None
        longest = min(queue_module.BACKOFF_LONGEST_S, queue_module.BACKOFF_FIRST_S * 2**attempt)
        assert longest / 2 <= due - now <= longest
        attempts = queue._failures
        now = due - 0.001
        assert not queue.drain(1)
        assert queue._failures == attempts, "no attempt before it is due"
        now = due
    memory.outcome = THERE
    assert queue.drain(1)
    assert queue._failures == 0


def test_retry_after_is_honoured_within_the_bound(
    queue: ExportQueue, memory: testing.MemoryExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module.time, "monotonic", lambda: 0.0)
    queue.submit(profile(0))
    memory.outcome = Outcome(Verdict.RETRY, "HTTP 429", retry_after_s=60)
    queue.drain(1)
    assert queue.next_due() == 60
    memory.outcome = Outcome(Verdict.RETRY, "HTTP 429", retry_after_s=1e9)
    queue.drain(1, force=True)
    assert queue.next_due() == queue_module.BACKOFF_LONGEST_S


def test_a_refusal_is_not_retried_and_said_once_for_each_reason(
    queue: ExportQueue, memory: testing.MemoryExporter, caplog: pytest.LogCaptureFixture
) -> None:
    memory.outcome = Outcome(Verdict.REFUSED, "HTTP 400")
    for number in range(3):
        queue.submit(profile(number))
    assert queue.drain(1)
    assert (queue.refused, len(queue), queue.exported) == (3, 0, 0)
    assert caplog.messages == ["memory refuses profiles: HTTP 400"]
    memory.outcome = THERE
    queue.submit(profile(3))
    assert queue.drain(1)
    assert "3 windows were dropped" in caplog.messages[1]


def test_a_window_the_server_fails_on_does_not_block_the_others(
    queue: ExportQueue, memory: testing.MemoryExporter
) -> None:
    memory.outcome = Outcome(Verdict.RETRY, "HTTP 500", counts=True)
    queue.submit(profile(0))
    queue.submit(profile(1))
    for _ in range(queue_module.MAX_FAILED_ANSWERS):
        queue.drain(1, force=True)
    assert queue.refused == 1
    memory.outcome = THERE
    assert queue.drain(1, force=True)
    assert sequences(memory) == [1]


@pytest.mark.usefixtures("swallow_internal_errors")
def test_an_exporter_that_raises_is_an_outage(
    queue: ExportQueue, memory: testing.MemoryExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Outcome:
        raise ZeroDivisionError

    queue.submit(profile(0))
    with monkeypatch.context() as patch:
        patch.setattr(memory, "export", broken)
        assert not queue.drain(1)
    assert queue.drain(1, force=True)
    assert sequences(memory) == [0]


def test_stops_in_time(queue: ExportQueue, memory: testing.MemoryExporter) -> None:
    queue.submit(profile(0))
    assert not queue.drain(1, until=0.0)
    assert sequences(memory) == []


def test_submitting_while_another_thread_sends(memory: testing.MemoryExporter) -> None:
    entered, go_on = threading.Event(), threading.Event()

    class Slow(testing.MemoryExporter):
        def export(self, profile: EncodedWindow, timeout_s: float) -> Outcome:
            entered.set()
            assert go_on.wait(10)
            return super().export(profile, timeout_s)

    slow = Slow()
    queue = ExportQueue(slow)
    queue.submit(profile(0))
    sender = threading.Thread(target=queue.drain, args=(1,))
    sender.start()
    assert entered.wait(10)
    for number in range(1, MAX_QUEUED_WINDOWS + 2):  # one more than fit beside the one under way
        queue.submit(profile(number))
    go_on.set()
    sender.join(10)
    assert queue.dropped == 1
    assert sequences(slow) == [0, *range(2, MAX_QUEUED_WINDOWS + 2)]
