"""Who holds the lock that a thread or task of a snapshot waits for, and where.

A lock does not record its holder. But who took it by ``with`` or ``async with`` stands in that
block, and the interpreter keeps the lock on that frame (see the extension's ``with_blocks``). Which
lock a thread waits for the kernel says, by the address it sleeps at; a task's is an argument of the
method that waits. Only locks of the standard library are looked at, of exactly its types, so that
no code of the application runs. What is said of a holder is true at the moment it is looked at.

An ``RLock`` knows the thread that holds it, however it was taken; it is found from the frame that
waits. Not to be known: the holder of another lock that was taken by ``acquire()``; and from CPython
3.14 on, the locks of threads.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Mapping, Sequence
from types import CodeType, FrameType, ModuleType
from typing import Any, Final, NamedTuple

from conprof_core._engine.task_entry import Entry, Frame, Places

__all__ = ["LockMap"]

Key = tuple[str, int]

_NEAR_LEAF: Final = 4
_MAX_HOLDERS: Final = 4
_OWNER: Final = re.compile(r"owner=(\d+)")

_LOCK: Final = type(threading._allocate_lock())  # type: ignore[attr-defined]
_RLOCK: Final = type(threading._CRLock()) if threading._CRLock else _LOCK  # type: ignore[attr-defined]


class _Holder(NamedTuple):
    id: int
    name: str
    place: Frame


class LockMap:
    """What is held and what is waited for, in one snapshot. For one thread.

    Args:
        native: the extension; without it nothing is known.
        places: of the same snapshot.
    """

    def __init__(self, native: ModuleType | None, places: Places) -> None:
        self._native = native
        self._places = places
        self._held: dict[Key, list[_Holder]] = {}
        self._wanted: dict[int, Key] = {}
        self._owners: dict[int, int] = {}  # of RLocks: ident of who waits → of who holds
        self._alive: list[object] = []  # so that no id is used twice
        self._plain: set[tuple[int, int]] = set()  # places seen in no block of a lock
        self._waits: tuple[CodeType, ...] = (threading.Condition.wait.__code__,)
        locks: Any = sys.modules.get("asyncio.locks")
        self._task_types: tuple[type, ...] = ()
        self._task_acquires: tuple[CodeType, ...] = ()
        self._outer: tuple[type, ...] = (threading.Condition,)
        if locks is not None:
            self._task_types = (locks.Lock, locks.Semaphore, locks.BoundedSemaphore)
            self._task_acquires = (locks.Lock.acquire.__code__, locks.Semaphore.acquire.__code__)
            self._outer += (locks.Condition,)
            self._waits += (locks.Condition.wait.__code__,)
        self._counting = (threading.Semaphore, threading.BoundedSemaphore)
        self._types = (_LOCK, _RLOCK, *self._counting, *self._outer, *self._task_types)

    def note(self, owner: int, name: str, frames: Sequence[FrameType]) -> None:
        """Remember what a thread or task holds: its frames, whose places were asked for before."""
        if self._native is None:
            return
        found: list[tuple[Key, _Holder]] = []
        given_up: Key | None = None
        for frame in frames:
            if frame.f_code in self._waits:
                # It stands in the block of the condition, and has given the lock away meanwhile.
                given_up = self._key_of(self._native.first_local(frame, self._outer))
            at = (id(frame.f_code), frame.f_lasti)
            if at in self._plain:
                continue
            objects = self._native.with_blocks(frame, self._types)
            if not objects:
                self._plain.add(at)
            for one in objects:
                key = self._key_of(one)
                if key is not None:
                    found.append((key, _Holder(owner, name, self._places.of(frame))))
        for key, holder in found:
            if key != given_up:
                self._held.setdefault(key, []).append(holder)

    def thread_wants(self, owner: int, futex: int, frames: Sequence[FrameType]) -> None:
        """Remember that a thread sleeps at an address."""
        if self._native is None or not futex:
            return
        self._wanted[owner] = ("address", futex)
        for frame in frames[:_NEAR_LEAF]:
            rlock = self._native.lock_search(frame, futex, _RLOCK)
            if rlock is not None:
                # Only its text tells who has it; the type is exact, so the text is CPython's.
                found = _OWNER.search(repr(rlock))
                self._owners[owner] = int(found[1]) if found else 0
                break
        for frame in frames[:_NEAR_LEAF]:
            if frame.f_code is threading.Semaphore.acquire.__code__:
                self._want_first_local(owner, frame, self._counting)

    def task_wants(self, owner: int, frames: Sequence[FrameType]) -> None:
        """Remember that a task waits for a lock: its frames, leaf first."""
        for frame in frames[:_NEAR_LEAF]:
            if frame.f_code in self._task_acquires:
                self._want_first_local(owner, frame, self._task_types)

    def completed(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return the entries with what is known of the locks that they wait for."""
        by_id = {entry.id: entry for entry in entries if entry.kind == "thread"}
        return [
            self._complete(entry, by_id) if entry.id in self._wanted else entry for entry in entries
        ]

    def _complete(self, entry: Entry, threads: Mapping[int, Entry]) -> Entry:
        holders = [h for h in self._held.get(self._wanted[entry.id], ()) if h.id != entry.id]
        owner = threads.get(self._owners.get(entry.id, 0))
        if not holders and owner is not None and owner is not entry:
            # Where it took the lock is not known; where it is now, is.
            holders = [_Holder(owner.id, f"thread {owner.name}", owner.frames[0])]
        if not holders or entry.state != "lock":
            return entry
        names = tuple(dict.fromkeys(holder.name for holder in holders[:_MAX_HOLDERS]))
        return entry._replace(held_by=names, held_at=holders[0].place)

    def _want_first_local(self, owner: int, frame: FrameType, types: tuple[type, ...]) -> None:
        one = None if self._native is None else self._native.first_local(frame, types)
        if one is not None:
            self._wanted[owner] = self._key_of(one) or ("object", 0)

    def _key_of(self, one: Any) -> Key | None:
        if type(one) in self._outer:
            one = vars(one).get("_lock")
        kind = type(one)
        if kind is _LOCK or kind is _RLOCK:
            address = self._native.lock_address(one) if self._native is not None else 0
            key = ("address", address) if address else None
        elif kind in self._task_types or kind in self._counting:
            key = ("object", id(one))
        else:
            return None
        self._alive.append(one)
        return key
