"""One thread, asyncio task or greenlet of a snapshot, and the frames that entries share."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple
from weakref import ref

from conprof_core._limits import LEAF_FRAMES, MAX_STACK_DEPTH, ROOT_FRAMES

__all__ = ["Ages", "Entry", "Frame", "Places", "cut", "items_of"]

Frame = tuple[str, str, int, int]
"""Function, file, line, first line; shaped as ``conprof_core._engine.Frame``."""

_TRUNCATED: Final[Frame] = ("[truncated]", "", 0, 0)


class Entry(NamedTuple):
    """One of what a snapshot found.

    Attributes:
        kind: ``thread``, ``task`` or ``greenlet``.
        id: the thread's ident, or the object's address.
        name: the name of the thread or task; empty where it has none.
        state: ``running``, ``runnable``, ``waiting for the GIL``, ``lock``, ``I/O``, ``sleep``,
            ``timer``, ``future``, ``task``, ``gather``, ``queue``, ``idle``, ``created`` or
            ``waiting``, where more is not known.
        age_s: seconds; of a thread since it started, of others since a snapshot saw them first.
            ``None`` where it is not known.
        frames: leaf first. A task that others await goes on with their frames.
        labels: sorted by key.
        awaited_by: names of the tasks that wait for this one, nearest first.
        stands_for: more than 1 where a part stands for all.
        held_by: with the state ``lock``, the threads or tasks that hold it, where that is known.
        held_at: where the first of these stands in the block that holds it.
    """

    kind: str
    id: int
    name: str
    state: str
    age_s: float | None
    frames: tuple[Frame, ...]
    labels: tuple[tuple[str, str], ...] = ()
    awaited_by: tuple[str, ...] = ()
    stands_for: int = 1
    held_by: tuple[str, ...] = ()
    held_at: Frame | None = None


class Places:
    """Frames with their names, each resolved once in a snapshot. For one thread."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], Frame] = {}
        self._stacks: dict[tuple[Frame, ...], tuple[Frame, ...]] = {}
        self._codes: list[CodeType] = []  # keeps the ids in the keys from being reused

    def of(self, frame: FrameType) -> Frame:
        """Return function, file and lines of a frame."""
        code = frame.f_code
        key = (id(code), frame.f_lasti)
        found = self._known.get(key)
        if found is None:
            self._codes.append(code)
            name = getattr(code, "co_qualname", code.co_name) or "<unknown>"
            first = max(1, code.co_firstlineno)
            found = self._known[key] = (name, code.co_filename, frame.f_lineno or first, first)
        return found

    def of_all(self, frames: Iterable[FrameType]) -> list[Frame]:
        """Return the places of frames."""
        return [self.of(frame) for frame in frames]

    def stack(self, frames: list[Frame]) -> tuple[Frame, ...]:
        """Return frames, leaf first, within the bound on depth; equal ones are one object."""
        stack = cut(frames)
        return self._stacks.setdefault(stack, stack)


class Ages:
    """Since when snapshots have seen an object that does not know its own age.

    Holds weak references to what the last snapshot saw, and to nothing else.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[ref[Any], int]] = {}
        self._next: dict[int, tuple[ref[Any], int]] = {}
        self._now_ns = 0

    def begin(self) -> None:
        """A snapshot begins."""
        self._next = {}
        self._now_ns = time.monotonic_ns()

    def of(self, seen: Any) -> float | None:
        """Return seconds since an object was first seen; ``None`` when that is now."""
        known = self._known.get(id(seen))
        if known is None or known[0]() is not seen:
            self._next[id(seen)] = (ref(seen), self._now_ns)
            return None
        self._next[id(seen)] = known
        return (self._now_ns - known[1]) / 1e9

    def end(self) -> None:
        """The snapshot is complete: what it did not see is forgotten."""
        self._known, self._next = self._next, {}


def cut(frames: list[Frame]) -> tuple[Frame, ...]:
    """Return frames, leaf first, within the bound on the depth of a stack."""
    if len(frames) <= MAX_STACK_DEPTH:
        return tuple(frames)
    return (*frames[:LEAF_FRAMES], _TRUNCATED, *frames[-ROOT_FRAMES:])


def items_of(cell: Any) -> tuple[tuple[str, str], ...]:
    """Return the labels that a cell shows now."""
    if cell is None:
        return ()
    items: tuple[tuple[str, str], ...] = cell.labels.items()
    return items
