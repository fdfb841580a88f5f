"""Tables for people: services, labels, routes, time series. Stacks are in ``merge``."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final

from conprof_core.agent import limits
from conprof_core.agent.merge import covered, covered_ms, find_type, places
from conprof_core.agent.names import rank, route_key
from conprof_core.agent.segment import Segment
from conprof_core.agent.selection import Selection, condition
from conprof_core.agent.store import Store
from conprof_core.agent.tables import Tables

__all__ = ["labels", "series", "services", "table"]

# Tags that name the service; offered as the service picker, not as filters.
_SERVICE_TAGS: Final = frozenset({"service", "application_name"})
_VALUES_OF_A_KEY: Final = 200
_STACKED: Final = 8
# Bins of rates are one percent wide: 100 for each factor of e.
_BINS_PER_E: Final = 100


def services(store: Store, from_s: float, to_s: float) -> list[dict[str, Any]]:
    """Return every service seen in the range, with its types, busiest measure first."""
    found: dict[str, dict[str, Any]] = {}
    whole = Selection("", from_s, to_s)
    for segment in store.segments(from_s, to_s):
        tables = store.label_tables(segment)
        rows = store.rows(
            segment,
            f"SELECT series, type, min(start_ms), max(end_ms), sum(value) "
            f"FROM {segment.alias}.totals WHERE {whole.time_condition(segment.day)} "
            "GROUP BY series, type",
            keep=whole.holds(segment.day),
        )
        for number, type_number, start_ms, end_ms, total in rows:
            name, tags = tables.series[number]
            kind = tables.types[type_number]
            entry = found.setdefault(
                name,
                {"name": name, "first_ms": start_ms, "last_ms": end_ms}
                | {"processes": set(), "types": {}, "language": dict(tags).get("language", "")},
            )
            entry["first_ms"] = min(entry["first_ms"], start_ms)
            entry["last_ms"] = max(entry["last_ms"], end_ms)
            entry["processes"].add(tags)
            kept = entry["types"].setdefault(
                kind.name,
                {"name": kind.name, "unit": kind.unit, "original": kind.original}
                | {"instant": kind.instant, "total": 0},
            )
            kept["total"] += int(total)
    for entry in found.values():
        entry["processes"] = len(entry["processes"])
        entry["types"] = sorted(entry["types"].values(), key=lambda kind: rank(kind["name"]))
    return sorted(found.values(), key=lambda entry: entry["name"])


def labels(store: Store, selection: Selection) -> list[dict[str, Any]]:
    """Return keys and values of the selection with the share of the value each has."""
    sums: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    total = 0
    for segment, tables, number, where in places(store, selection):
        rows = store.rows(
            segment,
            f"SELECT series, labels, sum(value) FROM {segment.alias}.totals "
            f"WHERE type = {number} AND {where} GROUP BY series, labels",
            keep=selection.holds(segment.day),
        )
        for number, label_set, value in rows:
            total += int(value)
            pairs = dict(tables.series[number][1]) | dict(tables.label_sets[label_set])
            for key, text in pairs.items():
                if key not in _SERVICE_TAGS:
                    sums[key][text] += int(value)
    answer = []
    for key, values in sums.items():
        ordered = sorted(values.items(), key=lambda pair: (-pair[1], pair[0]))
        answer.append(
            {
                "key": key,
                "distinct": len(ordered),
                "values": [
                    {"value": text, "total": value, "share": value / total if total else 0}
                    for text, value in ordered[:_VALUES_OF_A_KEY]
                ],
            }
        )
    # Keys that split the samples before those that describe every process alike.
    return sorted(answer, key=lambda e: (e["key"] != route_key, e["distinct"] == 1, e["key"]))


class _Groups:
    """Values of one label, numbered across files."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.names: list[str] = []
        self._ids: dict[str, int] = {}

    def _id(self, name: str) -> int:
        found = self._ids.get(name)
        if found is None:
            found = self._ids[name] = len(self.names)
            self.names.append(name)
        return found

    def maps(self, tables: Tables) -> tuple[str, str]:
        """Return JSON lists: label set → group or null, series → group."""
        by_labels = [dict(pairs).get(self.key) for pairs in tables.label_sets]
        by_series = [dict(tags).get(self.key, "") for _, tags in tables.series]
        return (
            json.dumps([None if name is None else self._id(name) for name in by_labels]),
            json.dumps([self._id(name) for name in by_series]),
        )


def _numbered(parameter: int) -> str:
    """Return a table (n, g) of a JSON list that is a parameter."""
    numbers = f"${parameter}::JSON::INTEGER[]"
    return f"(SELECT unnest(range(len({numbers}))) AS n, unnest({numbers}) AS g)"


def _grouped(
    store: Store, selection: Selection, groups: _Groups
) -> Iterator[tuple[Segment, str, list[str]]]:
    """Yield for each file SQL giving (g, win, start_ms, end_ms, value), and its parameters.

    File by file, and not as one statement: a month of windows has more groups than fit in memory.
    """
    for segment, tables, number, where in places(store, selection):
        # Joined, not looked up in a list: a list would be copied for every row.
        yield (
            segment,
            f"SELECT coalesce(l.g, s.g) AS g, win, start_ms, end_ms, value "
            f"FROM (SELECT * FROM {segment.alias}.totals WHERE type = {number} AND {where}) "
            f"JOIN {_numbered(1)} l ON labels = l.n JOIN {_numbered(2)} s ON series = s.n",
            [*groups.maps(tables)],
        )


class _Rates:
    """What a group did window by window: enough for a total, a maximum and a percentile.

    Rates are counted in bins that are one percent wide, so that files can be added up.
    """

    __slots__ = ("bins", "peak", "total", "weight", "windows")

    def __init__(self) -> None:
        self.bins: dict[int, tuple[int, float]] = {}
        self.peak = 0.0
        self.total = 0
        self.weight = 0.0
        self.windows = 0

    def add_bin(self, number: int, windows: int, largest: float) -> None:
        """Count windows whose rate falls into a bin; ``largest`` is the largest of the rates."""
        counted, known = self.bins.get(number, (0, 0.0))
        self.bins[number] = (counted + windows, max(known, largest))
        self.windows += windows
        self.peak = max(self.peak, largest)

    @property
    def p95(self) -> float | None:
        """The rate that 95 of 100 windows do not exceed, too large by one percent at most."""
        left = 0.95 * self.windows
        for number in sorted(self.bins):
            counted, largest = self.bins[number]
            left -= counted
            if left <= 0:
                return largest
        return self.peak if self.windows else None


def table(store: Store, selection: Selection, key: str = route_key) -> dict[str, Any]:
    """Return one row for each value of a label: the per-route table, or any other.

    ``p95`` is that of value per second over the windows in which the group has a value at all, to
    one percent; ``per_request`` is there where the probe counts requests.
    """
    covered_s = covered_ms(store, selection) / 1000
    kind = find_type(store, selection)
    instant = bool(kind and kind.instant)
    groups = _Groups(key)
    found: dict[int, _Rates] = defaultdict(_Rates)
    inside = _rates_of(instant=instant)
    for segment, source, parameters in _grouped(store, selection, groups):
        keep = selection.holds(segment.day)
        _add_rates(found, store.rows(segment, inside.format(source), parameters, keep=keep))
    requests = _requests(store, selection) if key == route_key else {}
    rows: list[dict[str, Any]] = []
    for group, rates in found.items():
        total: float = rates.total
        if instant:
            total = round(rates.weight / max(1.0, covered_s * 1000), 3)
        name = groups.names[group]
        served = requests.get(name, 0)
        if not total and not served:
            continue
        rows.append(
            {
                "value": name,
                "total": total,
                "per_second": total if instant else (total / covered_s if covered_s else None),
                "windows": rates.windows,
                "p95": rates.p95,
                "max": rates.peak,
                "requests": served or None,
                "per_request": total / served if served and not instant else None,
            }
        )
    rows.sort(key=lambda row: (-row["total"], row["value"]))
    grand = sum(row["total"] for row in rows)
    for row in rows:
        row["share"] = row["total"] / grand if grand else 0
    return {
        "by": key,
        "unit": kind.unit if kind else "",
        "instant": instant,
        "covered_s": covered_s,
        "total": grand,
        "distinct": len(rows),
        "rows": rows[: limits.MAX_ROWS_IN_ANSWER],
    }


def _rates_of(*, instant: bool) -> str:
    """Return SQL around a source of ``_grouped``: what one file has on each group, in one pass.

    A day has a million rows: windows are counted by the bin of their rate.
    """
    rate = "sum(value)" if instant else "sum(value) * 1000.0 / greatest(max(end_ms - start_ms), 1)"
    weighed = "sum(value * greatest(end_ms - start_ms, 1))" if instant else "0"
    return (
        f"SELECT g, CASE WHEN value > 0 THEN floor(ln(rate) * {_BINS_PER_E})::INTEGER END "
        f"AS bin, count(*), sum(value)::BIGINT, max(rate), sum(weighed)::DOUBLE FROM "
        f"(SELECT g, sum(value) AS value, {rate} AS rate, {weighed} AS weighed "
        "FROM ({}) GROUP BY g, win) GROUP BY g, bin"
    )


def _add_rates(found: dict[int, _Rates], rows: list[tuple[Any, ...]]) -> None:
    for group, number, windows, total, largest, weight in rows:
        rates = found[group]
        rates.total += total
        rates.weight += weight
        if number is not None:
            rates.add_bin(number, windows, largest)


def _requests(store: Store, selection: Selection) -> dict[str, int]:
    """Return requests by route; none when a filter is on a label that requests do not have."""
    counts: dict[str, int] = defaultdict(int)
    for segment, tables, _, _ in places(store, selection):
        tag_keys = {key for _, tags in tables.series for key, _ in tags}
        if any(f.key != route_key and f.key not in tag_keys for f in selection.filters):
            return {}
        about_process = tuple(f for f in selection.filters if f.key != route_key)
        narrowed = Selection(selection.type, selection.from_s, selection.to_s, selection.service)
        where = condition(tables, narrowed, segment.day)
        if where is None:
            continue
        rows = store.rows(
            segment,
            f"SELECT series, route, sum(requests) FROM {segment.alias}.endpoints "
            f"WHERE {where} GROUP BY series, route",
            keep=narrowed.holds(segment.day),
        )
        for number, route, count in rows:
            tags = dict(tables.series[number][1])
            if all(f.passes(tags.get(f.key, "")) for f in about_process):
                counts[route] += int(count)
    return counts


def series(store: Store, selection: Selection, step_s: float, key: str = "") -> dict[str, Any]:
    """Return value per second (for a state: the value) in buckets of ``step_s``.

    A window is spread over the buckets it covers, as far as they are in the range: one as long as a
    day would otherwise become 86 400 rows. With a key, one line for each of its largest
    values and one, named ``null``, for the others. ``covered`` is from when to when there are
    windows, in ms: the buckets at its ends are not filled to their whole width. ``window_ms`` is
    the longest window.
    """
    step_ms = max(1, round(step_s * 1000))
    kind = find_type(store, selection)
    instant = bool(kind and kind.instant)
    groups = _Groups(key or "\0")
    span = covered(store, selection)
    first, last = int(selection.from_s * 1000) // step_ms, int(selection.to_s * 1000) // step_ms
    answer: dict[str, Any] = {
        "unit": kind.unit if kind else "",
        "instant": instant,
        "start_ms": first * step_ms,
        "step_ms": step_ms,
        "buckets": last - first + 1,
        "covered": span and span[:2],
        "window_ms": span[2] if span else 0,
        "lines": [],
    }
    overlap = f"(least(end_ms, (b + 1) * {step_ms}) - greatest(start_ms, b * {step_ms}))"
    touched = (
        f"greatest(start_ms // {step_ms}, {first}), "
        f"least(greatest(end_ms - 1, start_ms) // {step_ms}, {last}) + 1"
    )
    scale = f"{step_ms}.0" if instant else f"greatest(end_ms - start_ms, 1) * {step_ms / 1000}"
    rows: list[tuple[Any, ...]] = []
    for segment, source, parameters in _grouped(store, selection, groups):
        rows += store.rows(
            segment,
            f"SELECT g, b, sum(value * greatest({overlap}, 1) / ({scale})) FROM "
            f"(SELECT g, start_ms, end_ms, value, unnest(range({touched})) AS b FROM "
            f"(SELECT g, start_ms, end_ms, sum(value)::DOUBLE AS value FROM ({source}) "
            "GROUP BY ALL)) GROUP BY g, b",
            parameters,
            keep=selection.holds(segment.day),
        )
    answer["lines"] = list(_lines(rows, groups, first, last - first + 1))
    return answer


def _lines(
    rows: list[tuple[Any, ...]], groups: _Groups, first: int, buckets: int
) -> Iterator[dict[str, Any]]:
    sums: dict[int, float] = defaultdict(float)
    for group, _, value in rows:
        sums[group] += value
    order = sorted(sums, key=lambda group: (-sums[group], group))
    shown = {group: number for number, group in enumerate(order[:_STACKED])}
    lines = [[0.0] * buckets for _ in range(min(len(order), _STACKED + 1))]
    for group, bucket, value in rows:
        if 0 <= bucket - first < buckets:
            lines[shown.get(group, _STACKED)][bucket - first] += value
    for number, values in enumerate(lines):
        name = groups.names[order[number]] if number < _STACKED else None
        yield {"value": name, "values": [round(value, 3) for value in values]}
