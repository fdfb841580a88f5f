"""Aggregated rows under the names of a destination: what becomes one sample, and its labels.

The reference for the extension's ``merge.c``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from conprof_core._cells import OVERFLOW_ITEMS
from conprof_core._engine import Row
from conprof_core._limits import MAX_NAME
from conprof_core._text import valid_text
from conprof_core.exporters.naming import Naming

__all__ = ["Labels", "Merged", "Stack", "Trace", "clean_name", "merge_rows"]

Stack = tuple[tuple[str, str, int, int], ...]
Labels = tuple[tuple[str, str], ...]
Trace = tuple[int, int] | None
Merged = dict[tuple[Stack, Labels, Trace], list[int]]


def clean_name(text: str) -> str:
    """Return a name that is valid UTF-8, holds no control character and is of bounded length."""
    if len(text) > MAX_NAME:
        text = text[: MAX_NAME - 1] + "…"
    text = valid_text(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def merge_rows(rows: Iterable[Row], columns: Sequence[str], naming: Naming) -> Merged:
    """Return (stack, labels, trace) → values of ``columns``, in the order of their first rows.

    Rows that are equal under the naming are merged; those without a value are left out; of more
    label sets than the naming allows, the rest shares the overflow set.
    """
    merged: Merged = {}
    label_sets: set[Labels] = set()
    renamed = dict(naming.label_names)
    overflow = tuple((renamed.get(key, key), value) for key, value in OVERFLOW_ITEMS)
    for row in rows:
        values = [getattr(row, column) for column in columns]
        if not any(values):
            continue
        labels = _labels_of(row, naming, renamed)
        if naming.max_label_sets and labels not in label_sets:
            if len(label_sets) < naming.max_label_sets:
                label_sets.add(labels)
            else:
                labels = overflow
        key = (row.frames, labels, row.trace if naming.spans.form else None)
        known = merged.get(key)
        if known is None:
            merged[key] = values
        else:
            for index, value in enumerate(values):
                known[index] += value
    return merged


def _labels_of(row: Row, naming: Naming, renamed: dict[str, str]) -> Labels:
    # An empty value cannot be told from no label: both are string 0.
    labels = {renamed.get(key, key): value for key, value in row.labels if value}
    labels.pop("", None)  # a key that has no name there is left out
    if naming.thread_label is not None and row.thread_name:
        labels.setdefault(naming.thread_label, row.thread_name)
    return tuple(sorted((clean_name(key), clean_name(value)) for key, value in labels.items()))
