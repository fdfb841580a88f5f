"""A selection → its values at stacks, from every store file it touches; then trees and exports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import duckdb

from conprof_core.agent.intake import Labels
from conprof_core.agent.names import ProfileType
from conprof_core.agent.pprof import Frame
from conprof_core.agent.segment import Segment
from conprof_core.agent.selection import Selection, condition
from conprof_core.agent.store import Store
from conprof_core.agent.tables import Tables
from conprof_core.agent.tree import FlameTree

__all__ = ["covered", "covered_ms", "find_type", "merge_into", "places", "stacks"]


def places(
    store: Store, selection: Selection, *, with_stacks: bool = False
) -> Iterator[tuple[Segment, Tables, int, str]]:
    """Yield (file, its tables, type number there, SQL condition) where something may be found.

    The tables have functions and nodes for certain only when they are asked for.
    """
    for segment in store.segments(selection.from_s, selection.to_s):
        try:
            tables = store.tables(segment) if with_stacks else store.label_tables(segment)
        except duckdb.Error:
            continue  # retention took the file between the two lines above
        number = next((n for n, kind in enumerate(tables.types) if kind.name == selection.type), -1)
        if number >= 0:
            where = condition(tables, selection, segment.day)
            if where is not None:
                yield segment, tables, number, where


def find_type(store: Store, selection: Selection) -> ProfileType | None:
    """Return what is known of the selection's type."""
    for segment in reversed(store.segments(selection.from_s, selection.to_s)):
        for kind in store.label_tables(segment).types:
            if kind.name == selection.type:
                return kind
    return None


def covered(store: Store, selection: Selection) -> tuple[int, int, int] | None:
    """Return the start of the first window, the end of the last, and the longest, in ms.

    What rates are relative to: a range may begin long before the first upload. Label filters do not
    narrow it. None without windows.
    """
    whole = Selection(selection.type, selection.from_s, selection.to_s, selection.service)
    spans: list[tuple[Any, ...]] = []
    for segment, _, number, where in places(store, whole):
        spans += store.rows(
            segment,
            f"SELECT min(start_ms), max(end_ms), max(end_ms - start_ms) "
            f"FROM {segment.alias}.totals WHERE type = {number} AND {where}",
            keep=whole.holds(segment.day),
        )
    spans = [span for span in spans if span[0] is not None]
    if not spans:
        return None
    starts, ends, lengths = zip(*spans, strict=True)
    return min(starts), max(ends), max(lengths)


def covered_ms(store: Store, selection: Selection) -> int:
    """Return the time from the first window to the last of the service and type, in ms."""
    span = covered(store, selection)
    return span[1] - span[0] if span else 0


def _amount(store: Store, selection: Selection) -> tuple[str, int]:
    """Return the SQL of a group's sum and what to divide it by: 1, or for a state the time.

    An average is not rounded to a whole: a task that every tenth window has is a tenth of a task.
    """
    kind = find_type(store, selection)
    if kind is None or not kind.instant:
        return "sum(value)::BIGINT", 1
    return "sum(value * greatest(span_ms, 1))::DOUBLE", max(1, covered_ms(store, selection))


def merge_into(tree: FlameTree, store: Store, selection: Selection, column: int = 0) -> None:
    """Add everything selected to a tree."""
    amount, over = _amount(store, selection)
    for segment, tables, number, where in places(store, selection, with_stacks=True):
        rows = store.rows(
            segment,
            f"SELECT node, {amount} FROM {segment.alias}.samples_{number} "
            f"WHERE {where} GROUP BY node",
            keep=selection.holds(segment.day),
        )
        values = {node: value if over == 1 else value / over for node, value in rows if value}
        tree.add_nodes(tables, values, column)


def stacks(store: Store, selection: Selection) -> Iterator[tuple[tuple[Frame, ...], Labels, int]]:
    """Yield (frames root first, labels, value), what exports are made of: whole numbers."""
    amount, over = _amount(store, selection)
    for segment, tables, number, where in places(store, selection, with_stacks=True):
        rows = store.rows(
            segment,
            f"SELECT node, labels, {amount} FROM {segment.alias}.samples_{number} "
            f"WHERE {where} GROUP BY node, labels ORDER BY labels, node",
        )
        seen: dict[int, tuple[Frame, ...]] = {0: ()}
        for node, labels, value in rows:
            whole = value if over == 1 else round(value / over)
            if whole:
                yield _frames(tables, node, seen), tables.label_sets[labels], whole


def _frames(tables: Tables, node: int, seen: dict[int, tuple[Frame, ...]]) -> tuple[Frame, ...]:
    found = seen.get(node)
    if found is None:
        frames: list[Frame] = []
        place = node
        while place:
            name, file = tables.functions[tables.node_function[place]]
            frames.append((name, file, tables.node_line[place]))
            place = tables.node_parent[place]
        found = seen[node] = tuple(reversed(frames))
    return found
