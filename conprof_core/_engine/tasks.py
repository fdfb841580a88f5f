"""One snapshot of everything that runs or waits: threads, asyncio tasks and greenlets.

The counterpart of Go's goroutine profile. It is taken at the end of each window, and on demand,
with any engine. Other threads get the GIL whenever they want it: it is given away after every few
entries, so the application is never stopped for the length of the whole snapshot. Entries are
consistent each for itself; together they are of the time that the snapshot takes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from conprof_core._engine import Row
from conprof_core._engine.task_asyncio import task_entries
from conprof_core._engine.task_entry import Ages, Entry, Places
from conprof_core._engine.task_greenlets import greenlet_entries
from conprof_core._engine.task_locks import LockMap
from conprof_core._engine.task_population import loops_on_stacks
from conprof_core._engine.task_threads import Facts, no_facts, thread_entries
from conprof_core._held_gc import HeldCollector
from conprof_core._labels import context_var
from conprof_core._limits import MAX_TASKS_READ
from conprof_core._threads import sleep
from conprof_core._turns import ShortTurns

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["Entry", "Group", "Snapshot", "snapshot"]

_SLICE_NS: Final = 1_000_000
"""Time after which the GIL is offered to others, whether anybody has asked or not."""

_ages = Ages()


class Group(NamedTuple):
    """Entries that are alike: of one kind and state, with equal stacks and labels.

    Attributes:
        size: how many there are.
        kind, state, labels, frames: see ``Entry``.
        entries: the entries themselves.
    """

    size: int
    kind: str
    state: str
    labels: tuple[tuple[str, str], ...]
    frames: tuple[tuple[str, str, int, int], ...]
    entries: tuple[Entry, ...]


class Snapshot(NamedTuple):
    """What was found.

    Attributes:
        taken_ns: unix time.
        took_ns: how long it took, in nanoseconds; the application ran meanwhile.
        entries: threads first, then tasks, then greenlets.
    """

    taken_ns: int
    took_ns: int
    entries: tuple[Entry, ...]

    def total(self, kind: str = "") -> int:
        """Return how many there are, in all or of one kind."""
        return sum(entry.stands_for for entry in self.entries if kind in ("", entry.kind))

    @property
    def is_sampled(self) -> bool:
        """Whether entries stand for more than themselves."""
        return any(entry.stands_for > 1 for entry in self.entries)

    def groups(self) -> list[Group]:
        """Return entries that are alike together, the largest group first."""
        found: dict[tuple[Any, ...], list[Entry]] = {}
        for entry in self.entries:
            found.setdefault((entry.kind, entry.state, entry.labels, entry.frames), []).append(
                entry
            )
        groups = [
            Group(sum(one.stands_for for one in alike), kind, state, labels, frames, tuple(alike))
            for (kind, state, labels, frames), alike in found.items()
        ]
        return sorted(groups, key=lambda group: -group.size)

    def rows(self) -> list[Row]:
        """Return the rows of the profile type ``tasks``.

        They have the label ``task.state``, and those that wait for a lock ``lock.held_at``, where
        that is known.
        """
        counts: dict[Any, int] = {}
        for entry in self.entries:
            name = entry.name if entry.kind == "thread" else ""
            more = [("task.state", entry.state)]
            if entry.held_at is not None:
                function, file, line, _ = entry.held_at
                more.append(("lock.held_at", f"{function} ({file}:{line})"))
            key = (entry.frames, tuple(sorted((*entry.labels, *more))), name)
            counts[key] = counts.get(key, 0) + entry.stands_for
        return [
            Row(frames, labels, name, tasks=count)
            for (frames, labels, name), count in counts.items()
        ]


def snapshot(*, use_extension: bool = True, max_read: int = MAX_TASKS_READ) -> Snapshot:
    """Take a snapshot. Any thread; no profiler need run. Never raises for what it finds.

    Args:
        use_extension: read threads with the C extension where it is installed.
        max_read: tasks read one by one, and greenlets likewise; of more, a part stands for all.
    """
    native = _extension() if use_extension else None
    facts: Facts = no_facts if native is None else native.thread_facts
    running_loops = loops_on_stacks if native is None else native.running_loops
    places = Places()
    locks = LockMap(native, places)
    began = time.perf_counter_ns()
    taken_ns = time.time_ns()
    with ShortTurns(), HeldCollector():
        _ages.begin()
        entries = [
            *_in_slices(thread_entries(facts, places, locks)),
            *_in_slices(task_entries(context_var, running_loops, places, _ages, locks, max_read)),
            *_in_slices(greenlet_entries(context_var, places, _ages, max_read)),
        ]
        _ages.end()
        entries = locks.completed(entries)
    return Snapshot(taken_ns, time.perf_counter_ns() - began, tuple(entries))


def _in_slices(entries: Iterator[Entry | None]) -> Iterator[Entry]:
    until = time.perf_counter_ns() + _SLICE_NS
    for entry in entries:
        if entry is not None:
            yield entry
        if time.perf_counter_ns() > until:
            sleep(0)
            until = time.perf_counter_ns() + _SLICE_NS


def _extension() -> ModuleType | None:
    try:
        from conprof_core import _native
    except Exception:
        return None
    return _native if hasattr(_native, "thread_facts") else None
