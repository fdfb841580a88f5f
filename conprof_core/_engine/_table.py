"""The portable engine's aggregation: stack, labels and thread to samples and CPU, bounded."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Final

from conprof_core._engine import Row
from conprof_core._limits import LEAF_FRAMES, MAX_STACK_DEPTH, MAX_TRACES, ROOT_FRAMES
from conprof_core._pprof import encode_profile
from conprof_core._span import Span

if TYPE_CHECKING:
    from conprof_core._cells import LabelCell, LabelSet
    from conprof_core.exporters.naming import Naming, Shape

__all__ = ["PortableWindow", "Table"]

_Frame = tuple[str, str, int, int]
_Trace = tuple[int, int, int] | None
_TRUNCATED: Final[_Frame] = ("[truncated]", "", 0, 0)
_LOST: Final[_Frame] = ("[lost]", "", 0, 0)


class _Entry:
    """One row in the making. ``codes`` keeps the ids in its key from being reused."""

    __slots__ = ("codes", "cpu_ns", "labels", "lines", "samples", "thread_name", "trace")

    def __init__(
        self,
        codes: tuple[CodeType | None, ...],
        lines: tuple[int, ...],
        labels: LabelCell | LabelSet | None,
        thread_name: str,
        trace: _Trace,
    ) -> None:
        self.codes = codes
        self.lines = lines
        self.labels = labels
        self.thread_name = thread_name
        self.trace = trace
        self.samples = 0
        self.cpu_ns = 0


class PortableWindow:
    """A window of the portable engine; see ``EngineWindow``."""

    def __init__(
        self, rows: list[Row], start_ns: int, counters: dict[str, int], end_ns: int
    ) -> None:
        self._rows = rows
        self.start_ns = start_ns
        self.end_ns = end_ns
        self.samples = sum(row.samples for row in rows)
        self.cpu_ns = sum(row.cpu_ns for row in rows)
        self.stacks = len(rows)
        self.counters: Mapping[str, int] = counters

    def rows(self) -> list[Row]:
        """Return the aggregated rows."""
        return list(self._rows)

    def encode_pprof(
        self,
        shape: Shape,
        naming: Naming,
        *,
        mapping_file: str,
        comments: Sequence[str] = (),
        first_sample: int = 0,
    ) -> bytes | None:
        """Return one profile of the window as uncompressed pprof."""
        return encode_profile(
            self._rows,
            shape,
            naming,
            start_ns=self.start_ns,
            end_ns=self.end_ns,
            mapping_file=mapping_file,
            comments=comments,
            first_sample=first_sample,
        )

    def encode_otlp(
        self,
        naming: Naming,
        *,
        resource: bytes,
        version: str,
        profile_id: bytes,
        attributes: Sequence[tuple[str, int]] = (),
    ) -> bytes | None:
        """Return the window as an uncompressed OTLP request."""
        from conprof_core._otlp import encode_request

        return encode_request(
            self._rows,
            naming,
            start_ns=self.start_ns,
            end_ns=self.end_ns,
            resource=resource,
            version=version,
            profile_id=profile_id,
            attributes=attributes,
        )


class TraceBound:
    """The traces of one window. There is room for a number of them: those beyond are left out.

    Each has rows of its own, and they must leave room for those that merge.
    """

    def __init__(self) -> None:
        self._known: set[tuple[int, int, int]] = set()
        self.refused = 0

    def of(self, trace: tuple[int, int, int]) -> _Trace:
        """Return the trace, or ``None`` when there is no room for it."""
        if trace not in self._known:
            if len(self._known) >= MAX_TRACES:
                self.refused += 1
                return None
            self._known.add(trace)
        return trace


class Table:
    """Rows of one window in the making. Not thread-safe: the engine's lock guards it.

    Args:
        max_stacks: distinct rows.
        behind_ns: where the window before it ended, if there was one.
    """

    def __init__(self, max_stacks: int, behind_ns: int = 0) -> None:
        self._max_stacks = max_stacks
        self._entries: dict[Any, _Entry] = {}
        self._span = Span(behind_ns)
        self._truncated = 0
        self._lost_samples = 0
        self._lost_cpu_ns = 0
        self._synthetic: dict[str, tuple[int, int]] = {}
        self._traces_seen = TraceBound()

    def add(self, leaf: FrameType | None, cell: LabelCell | None, ident: int, cpu_ns: int) -> None:
        """Charge a thread's CPU time to its stack and labels."""
        frames: list[FrameType] = []
        roots: deque[FrameType] = deque(maxlen=ROOT_FRAMES)
        dropped = 0
        frame = leaf
        while frame is not None:
            if len(frames) < LEAF_FRAMES:
                frames.append(frame)
            else:
                dropped += len(roots) == ROOT_FRAMES
                roots.append(frame)
            frame = frame.f_back
        thread = threading._active.get(ident)  # type: ignore[attr-defined]
        name: str = "" if thread is None else thread.name
        # Once a cell cannot change any more its set will do, and equal requests share a row.
        labels: LabelCell | LabelSet | None = cell
        if cell is not None and not getattr(cell, "provisional", True):
            labels = cell.labels
        trace = None if cell is None or cell.trace is None else self._traces_seen.of(cell.trace)
        frames.extend(roots)
        key = (
            name,
            labels,
            trace,
            dropped > 0,
            *[(id(frame.f_code), frame.f_lasti) for frame in frames],
        )
        entry = self._entries.get(key)
        if entry is None:
            if len(self._entries) >= self._max_stacks:
                self._lost_samples += 1
                self._lost_cpu_ns += cpu_ns
                return
            codes: list[CodeType | None] = [frame.f_code for frame in frames]
            lines = [frame.f_lineno or 0 for frame in frames]
            if dropped:
                codes.insert(LEAF_FRAMES, None)
                lines.insert(LEAF_FRAMES, 0)
            entry = self._entries[key] = _Entry(tuple(codes), tuple(lines), labels, name, trace)
        self._truncated += dropped > 0
        entry.samples += 1
        entry.cpu_ns += cpu_ns

    def add_synthetic(self, name: str, samples: int, cpu_ns: int) -> None:
        """Charge CPU time that belongs to no Python stack."""
        before = self._synthetic.get(name, (0, 0))
        self._synthetic[name] = (before[0] + samples, before[1] + cpu_ns)

    def end_ns(self) -> int:
        """Return when the window ends if that is now; see ``Span``."""
        return self._span.end_ns()

    def close(self, more: Sequence[Row] = (), end_ns: int = 0) -> PortableWindow:
        """Return the rows with names, lines and the labels as they are bound now, and ``more``.

        What ends where another table begins is told so by ``end_ns``: this takes a while.
        """
        end_ns = end_ns or self.end_ns()
        merged: dict[tuple[Any, ...], list[int]] = {}
        for entry in self._entries.values():
            frames = tuple(
                _frame(code, line) for code, line in zip(entry.codes, entry.lines, strict=True)
            )
            late = getattr(entry.labels, "trace", None)  # of a cell that waits to be bound
            trace = entry.trace or (late and self._traces_seen.of(late))
            key = (frames, _items(entry.labels), entry.thread_name, trace)
            values = merged.setdefault(key, [0, 0])
            values[0] += entry.samples
            values[1] += entry.cpu_ns
        rows = [
            Row(*key, *values)._replace(trace=_ids(trace))
            for (*key, trace), values in merged.items()
        ]
        if self._lost_samples:
            rows.append(Row((_LOST,), (), "", self._lost_samples, self._lost_cpu_ns))
        for name, (samples, cpu_ns) in self._synthetic.items():
            rows.append(Row(((name, "", 0, 0),), (), "", samples, cpu_ns))
        rows.extend(more)
        counters = {
            "stack_table_full": self._lost_samples,
            "truncated": self._truncated,
            "trace_ids_refused": self._traces_seen.refused,
        }
        return PortableWindow(rows, self._span.start_ns, counters, end_ns)


def _items(labels: LabelCell | LabelSet | None) -> tuple[tuple[str, str], ...]:
    if labels is None:
        return ()
    if hasattr(labels, "labels"):
        return labels.labels.items()
    return labels.items()


def _ids(trace: _Trace) -> tuple[int, int] | None:
    return None if trace is None else (trace[0] << 64 | trace[1], trace[2])


def _frame(code: CodeType | None, line: int) -> _Frame:
    if code is None:
        return _TRUNCATED
    name = getattr(code, "co_qualname", code.co_name)
    return (name or "<unknown>", code.co_filename, line, max(1, code.co_firstlineno))


assert LEAF_FRAMES + ROOT_FRAMES == MAX_STACK_DEPTH
