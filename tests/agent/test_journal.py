"""The journal: what is acknowledged stands there until the store has it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import duckdb
import pytest
from support import agent as make

from conprof_core.agent.errors import StoreUnavailableError
from conprof_core.agent.intake import Upload, parse
from conprof_core.agent.journal import Journal, Received
from conprof_core.agent.merge import merge_into
from conprof_core.agent.selection import Selection
from conprof_core.agent.store import Store
from conprof_core.agent.tree import FlameTree
from conprof_core.agent.writer import Writer

NOW = time.time()
EVERYTHING = Selection("cpu", 0, NOW + 100, "shop")


def upload(end: float = NOW) -> tuple[Upload, Received]:
    received = Received(make.CONTENT_TYPE, make.upload(end), NOW)
    return parse(*received), received


def total(store: Store) -> int:
    tree = FlameTree()
    merge_into(tree, store, EVERYTHING)
    return tree.totals[0][0]


RECORDS = [Received("a/b", b"first", 1.5), Received("é", b"", 2.0), Received("", b"x" * 5000, 3.0)]


def test_what_was_appended_is_replayed_until_it_is_cleared(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.append(RECORDS[:1])
    journal.append(RECORDS[1:])
    journal.close()
    journal = Journal(tmp_path / "journal")
    assert list(journal.replay()) == RECORDS
    journal.clear()
    assert list(journal.replay()) == []
    journal.append(RECORDS[:1])
    assert list(journal.replay()) == RECORDS[:1]
    journal.close()


def test_every_place_where_a_crash_may_cut_it_off(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.append(RECORDS)
    journal.close()
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        journal = Journal(path)
        kept = list(journal.replay())
        assert kept == RECORDS[: len(kept)]
        assert len(kept) < len(RECORDS)
        journal.append(RECORDS[:1])
        assert list(journal.replay()) == [*kept, RECORDS[0]], "behind the cut nothing is lost"
        journal.close()


def test_a_damaged_record_ends_the_file(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.append(RECORDS)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert list(journal.replay()) == RECORDS[:2]
    journal.close()


def test_another_file_in_its_place_is_refused_and_left_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "journal").write_text("conprof journal 9\nsomething of a later version")
    with pytest.raises(StoreUnavailableError, match="not a journal of this version"):
        Writer(store)
    assert "later version" in (tmp_path / "journal").read_text()
    store.close()


def test_an_agent_that_died_before_its_commit(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.append([upload()[1], upload(NOW - 20)[1]])
    journal.append([Received("text/plain", b"never a profile", NOW)])
    journal.append([upload(NOW - 90 * 86_400)[1]])
    journal.close()
    store = Store(tmp_path)
    writer = Writer(store)
    assert writer.has_pending
    writer.flush().result(10)
    assert not writer.has_pending
    assert total(store) == 200_000_000
    writer.close()
    store.close()
    assert (tmp_path / "journal").stat().st_size < 100


def test_what_the_store_has_already_counts_once(tmp_path: Path) -> None:
    """It died after the commit and before the journal was cleared."""
    store = Store(tmp_path)
    store.write([upload()[0]])
    store.close()
    journal = Journal(tmp_path / "journal")
    journal.append([upload()[1]])
    journal.close()
    store = Store(tmp_path)
    writer = Writer(store)
    writer.flush().result(10)
    assert total(store) == 100_000_000
    writer.close()
    store.close()


def test_a_store_that_fails_gets_it_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    writer = Writer(store)
    original, failing = Store.write, True

    def write(self: Store, uploads: list[Upload]) -> list[Exception | None]:
        if failing:
            return [StoreUnavailableError("no space left") for _ in uploads]
        return original(self, uploads)

    monkeypatch.setattr(Store, "write", write)
    writer.submit(*upload()).result(10)
    writer.flush().result(10)
    assert writer.has_pending
    assert total(store) == 0
    assert len(list(Journal(tmp_path / "journal").replay())) == 1, "acknowledged, so it is kept"
    failing = False
    writer.flush().result(10)
    assert total(store) == 100_000_000
    writer.close()
    store.close()


def test_one_upload_that_breaks_the_store_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    writer = Writer(store)
    original = Store.write
    (poison, received), good = upload(NOW - 20), upload()

    def write(self: Store, uploads: list[Upload]) -> list[Exception | None]:
        if any(one.digest == poison.digest for one in uploads):
            raise duckdb.InternalException("a defect")
        return original(self, uploads)

    monkeypatch.setattr(Store, "write", write)
    for future in [writer.submit(poison, received), writer.submit(*good)]:
        future.result(10)
    writer.flush().result(10)
    assert (writer.lost, writer.stored) == (1, 1)
    assert total(store) == 100_000_000
    writer.close()
    store.close()


def test_a_full_disk_refuses_and_keeps_the_journal_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    writer = Writer(store)
    original = os.write
    full = True

    def write(file: int, data: bytes) -> int:
        if full:
            original(file, bytes(data[:7]))  # as much as fits
            raise OSError(28, "No space left on device")
        return original(file, data)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(StoreUnavailableError, match="No space left"):
        writer.submit(*upload()).result(10)
    full = False
    writer.submit(*upload(NOW - 20)).result(10)
    assert len(list(Journal(tmp_path / "journal").replay())) == 1
    writer.flush().result(10)
    assert total(store) == 100_000_000
    writer.close()
    store.close()
