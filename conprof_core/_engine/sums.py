"""The portable engine's sums of windows: the reference for the extension's ``join.c``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from conprof_core._cells import OVERFLOW_ITEMS
from conprof_core._engine import Part, Row, sum_counters
from conprof_core._engine._table import PortableWindow
from conprof_core._limits import MAX_STACKS

__all__ = ["join_rows"]

_FULL: Final = (("[stack table full]", "", 0, 0),)
_COLUMNS: Final = Row._fields[3:-1]
_FIRST: Final = 3
"""Index of the first column in a row."""


def join_rows(
    parts: Sequence[Part], *, start_ns: int, end_ns: int, max_label_sets: int, threads: bool
) -> PortableWindow:
    """Return the sum of windows; see ``Engine.join``."""
    sums: dict[tuple[Any, Any, str, Any], list[int]] = {}
    label_sets: set[tuple[tuple[str, str], ...]] = set()
    counters = sum_counters(part.window.counters for part in parts)
    for part in parts:
        signs = [(name in part.added) - (name in part.subtracted) for name in _COLUMNS]
        for row in part.window.rows():
            values = [sign * value for sign, value in zip(signs, row[_FIRST:-1], strict=True)]
            if not any(values):
                continue
            labels = row.labels
            if max_label_sets and labels not in label_sets and labels != OVERFLOW_ITEMS:
                if len(label_sets) < max_label_sets:
                    label_sets.add(labels)
                else:
                    labels = OVERFLOW_ITEMS
            # Traces, as threads, are for uploads: those who read sums have no use for them.
            key = (
                row.frames,
                labels,
                row.thread_name if threads else "",
                row.trace if threads else None,
            )
            if key not in sums and len(sums) >= MAX_STACKS:
                counters["stack_table_full"] = counters.get("stack_table_full", 0) + 1
                key = (_FULL, labels, "", None)
            before = sums.get(key)
            if before is not None:
                values = [one + other for one, other in zip(before, values, strict=True)]
            sums[key] = values
    rows = [Row(*key, *values)._replace(trace=trace) for (*key, trace), values in sums.items()]
    return PortableWindow(rows, start_ns, counters, end_ns)
