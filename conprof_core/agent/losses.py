"""What probes could not deliver, carried on or cut short: the counters that came with windows."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any, Final

from conprof_core.agent.selection import Selection, condition
from conprof_core.agent.store import Store

__all__ = ["losses"]

_PREFIX: Final = "lost."


def losses(store: Store, selection: Selection) -> dict[str, Any]:
    """Return windows of the service in the range, and reason → count, largest first.

    Counts are of the process, not of a profile type or a label: filters do not narrow them.
    """
    whole = Selection(selection.type, selection.from_s, selection.to_s, selection.service)
    windows = 0
    counts: dict[str, int] = defaultdict(int)
    for segment in store.segments(whole.from_s, whole.to_s):
        where = condition(store.label_tables(segment), whole, segment.day)
        if where is None:
            continue
        # Most windows count alike: a text that comes again is read once.
        counted = f"CASE WHEN contains(counters, '\"{_PREFIX}') THEN counters ELSE '' END"
        rows = store.rows(
            segment,
            f"SELECT {counted} AS text, count(*) FROM {segment.alias}.windows "
            f"WHERE {where} GROUP BY text",
            keep=whole.holds(segment.day),
        )
        for text, times in rows:
            windows += times
            for key, count in json.loads(text or "{}").items():
                if key.startswith(_PREFIX):
                    counts[key.removeprefix(_PREFIX)] += count * times
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return {"windows": windows, "reasons": dict(ordered)}
