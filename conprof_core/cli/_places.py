"""Where time that somebody had to wait was spent: the innermost function of one's own, by label.

For types that count what a person wants to go and look at, one by one, such as callbacks that
blocked an event loop.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final

from conprof_core.agent.classify import classify
from conprof_core.agent.sources import Loaded

__all__ = ["COUNTED", "by_places"]

COUNTED: Final = {
    "loop_blocked": ("blocked by", "blocks", "loop_blocks"),
    "gc_pause": ("collected in", "pauses", "gc_pauses"),
}
"""Type → (title of the places, title of the count, type that counts)."""


def by_places(loaded: Loaded, type_name: str, key: str) -> list[dict[str, Any]]:
    """Return one row for each own function and value of a label, longest first.

    The line is the one that most of it fell on. Where a stack has no frame of one's own code, its
    innermost frame stands for it. A leaf in brackets, as ``[gc generation 2]``, is told beside.
    """
    sums: dict[tuple[str, str, str, str], list[float]] = defaultdict(lambda: [0, 0])
    lines: dict[tuple[str, str, str, str], dict[int, float]] = defaultdict(
        lambda: defaultdict(float)
    )
    for column, name in enumerate((type_name, COUNTED[type_name][2])):
        for (frames, labels), value in loaded.rows(name):
            leaf = frames[-1] if frames else ("(none)", "", 0)
            place = next(
                (frame for frame in reversed(frames) if classify(frame[0], frame[1])[1] == "own"),
                leaf,
            )
            bracket = leaf[0] if leaf[0].startswith("[") else ""
            where = (place[0], place[1], bracket, dict(labels).get(key, ""))
            sums[where][column] += value
            lines[where][place[2]] += value
    total = sum(value for value, _ in sums.values()) or 1
    rows = [
        {
            "function": where[0],
            "file": where[1],
            "line": max(lines[where], key=lines[where].__getitem__),
            "leaf": "" if where[2] == where[0] else where[2],
            "value": where[3],
            "total": round(value),
            "share": value / total,
            "count": round(count),
        }
        for where, (value, count) in sums.items()
        if value
    ]
    return sorted(rows, key=lambda row: (-int(row["total"]), str(row["function"]), row["value"]))
