"""Which samples a query is about, and how that becomes a condition on one store file."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from conprof_core.agent import limits
from conprof_core.agent.errors import BadQueryError
from conprof_core.agent.tables import Tables

__all__ = ["Filter", "Selection", "check_limit", "condition", "parse_selection", "parse_step"]

_RELATIVE: Final = re.compile(r"(?:now)?(?:-(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h|d)?)?", re.ASCII)
_DAY_S: Final = 86_400
_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, None: 1}
_MAX_FILTERS: Final = 20


@dataclass(frozen=True, slots=True)
class Filter:
    """A sample passes when its label ``key`` is one of ``values``, or none of them if negated.

    A label that a sample does not have counts as the empty value; a tag of its process counts when
    the sample has no label of that name.
    """

    key: str
    values: frozenset[str]
    negated: bool = False

    def passes(self, value: str) -> bool:
        return (value in self.values) is not self.negated


@dataclass(frozen=True, slots=True)
class Selection:
    """Samples of one type, in windows whose middle lies in ``[from_s, to_s)``."""

    type: str
    from_s: float
    to_s: float
    service: str = ""
    filters: tuple[Filter, ...] = ()

    def holds(self, day: int) -> bool:
        """Whether every window of a day (since 1970, UTC) lies in the range."""
        return self.from_s <= day * _DAY_S and (day + 1) * _DAY_S <= self.to_s

    def time_condition(self, day: int) -> str:
        """Return the SQL condition on the windows of a day, the same for all ranges that hold it.

        Windows are stored with whole seconds: one that is in the range lies at or after its begin,
        rounded up, and before its end, rounded up. So what was stored in this second is there now,
        and of two ranges that touch one has it.
        """
        if self.holds(day):
            return "TRUE"
        return f"middle_s >= {math.ceil(self.from_s)} AND middle_s < {math.ceil(self.to_s)}"


def parse_selection(
    parameters: Mapping[str, Sequence[str]], prefix: str = "", now_s: float | None = None
) -> Selection:
    """Return the selection that the parameters of a request name.

    ``type``, ``service``, ``from`` and ``to`` (unix seconds, or ``-1h``, ``now``), and any number
    of ``label=key=value`` or ``label=key!=value``. With a prefix such as ``base.``, what is not
    given under it is as without it, labels as a whole.

    Raises:
        BadQueryError: a parameter cannot be used.
    """
    now = time.time() if now_s is None else now_s

    def text(name: str, default: str) -> str:
        found = parameters.get(prefix + name) or parameters.get(name)
        return found[-1] if found else default

    from_s, to_s = _moment(text("from", "-1h"), now), _moment(text("to", "now"), now)
    if to_s < from_s:
        raise BadQueryError("'to' lies before 'from'")
    labels = parameters.get(f"{prefix}label")
    if labels is None:
        labels = parameters.get("label", ())
    return Selection(text("type", "cpu"), from_s, to_s, text("service", ""), _filters(labels))


def _moment(value: str, now: float) -> float:
    value = value.strip()
    found = _RELATIVE.fullmatch(value)
    if found is not None and value:
        return now - float(found[1] or 0) * _SECONDS[found[2]]
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e11:
        raise BadQueryError(f"{value[:40]!r} is not a time: unix seconds, 'now' or '-1h'")
    return seconds


def _filters(texts: Iterable[str]) -> tuple[Filter, ...]:
    values: dict[tuple[str, bool], set[str]] = {}
    for text in texts:
        if not text:
            continue
        key, equals, value = text.partition("=")
        negated = key.endswith("!")
        key = key.removesuffix("!")
        if not equals or not key:
            raise BadQueryError(f"{text[:80]!r} is not a filter: write key=value or key!=value")
        values.setdefault((key, negated), set()).add(value)
    if len(values) > _MAX_FILTERS:
        raise BadQueryError(f"more than {_MAX_FILTERS} filters")
    return tuple(Filter(key, frozenset(found), negated) for (key, negated), found in values.items())


def condition(tables: Tables, selection: Selection, day: int) -> str | None:
    """Return the SQL condition on a file of a day; ``None`` when nothing passes.

    Only numbers made here go into the text, never anything from a request.
    """
    clauses = [selection.time_condition(day)]
    if selection.service:
        wanted = [n for n, (name, _) in enumerate(tables.series) if name == selection.service]
        if not wanted:
            return None
        if len(wanted) < len(tables.series):
            clauses.append(_among("series", wanted))
    for each in selection.filters:
        clause = _filter_clause(tables, each)
        if clause is None:
            return None
        clauses.append(clause)
    return " AND ".join(clauses)


def _filter_clause(tables: Tables, wanted: Filter) -> str | None:
    passing: list[int] = []
    without: list[int] = []
    for number, labels in enumerate(tables.label_sets):
        value = dict(labels).get(wanted.key)
        if value is None:
            without.append(number)
        elif wanted.passes(value):
            passing.append(number)
    series = [
        number
        for number, (_, tags) in enumerate(tables.series)
        if wanted.passes(dict(tags).get(wanted.key, ""))
    ]
    if len(series) == len(tables.series):
        return _among("labels", passing + without)
    clause = _among("labels", passing) if passing else ""
    if series and without:
        by_series = f"({_among('labels', without)} AND {_among('series', series)})"
        return f"({clause} OR {by_series})" if clause else by_series
    return clause or None


def _among(column: str, numbers: Sequence[int]) -> str:
    return f"{column} IN ({', '.join(map(str, numbers))})" if numbers else "FALSE"


def check_limit(text: str, default: int, ceiling: int = limits.MAX_ROWS_IN_ANSWER) -> int:
    """Return a row limit of a request.

    Raises:
        BadQueryError: not a number from 1 to ``ceiling``.
    """
    if not text:
        return default
    # The length is looked at first: int() refuses thousands of digits with another error.
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= ceiling):
        raise BadQueryError(f"a limit is a number from 1 to {ceiling}")
    return int(text)


def parse_step(text: str, span_s: float) -> float:
    """Return the width of a bucket in seconds, so that a range has ``MAX_BUCKETS`` at most.

    Without a step, or with 0, the range is cut into 240. Too small a step is widened, because a
    link with a fixed step must work for any range; one beyond the range is one bucket.

    Raises:
        BadQueryError: not a number of seconds from 0.
    """
    try:
        step = float(text or 0)
    except ValueError:
        step = -1.0
    if not 0 <= step < math.inf:
        raise BadQueryError("'step' is a number of seconds, from 0")
    smallest = max(1.0, span_s / limits.MAX_BUCKETS)
    return min(max(step or span_s / 240, smallest), max(span_s, 1.0))
