"""A snapshot of threads, tasks and greenlets as text, in the forms of Go's goroutine profile.

``debug1`` groups what is alike and counts it, as ``/debug/pprof/goroutine?debug=1``; ``debug2``
lists each with its state and age, as ``?debug=2``. See ``net/http/pprof`` and ``runtime/pprof`` of
golang/go.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

from conprof_core._engine.tasks import Entry, Snapshot
from conprof_core._merge import clean_name

__all__ = ["debug1", "debug2", "to_json"]


def debug1(snapshot: Snapshot) -> str:
    """Return one paragraph for each group, the largest first."""
    lines = [f"goroutine profile: total {snapshot.total()}"]
    for group in snapshot.groups():
        places = [_place(frame) for frame in group.frames]
        addresses = [f"0x{zlib.crc32(place.encode()) or 1:x}" for place in places]
        lines.append(f"{group.size} @ {' '.join(addresses)}")
        labels = {**dict(group.labels), "task.kind": group.kind, "task.state": group.state}
        shown = {clean_name(key): clean_name(value) for key, value in labels.items()}
        lines.append(f"# labels: {json.dumps(shown, ensure_ascii=False)}")
        for address, place in zip(addresses, places, strict=True):
            lines.append(f"#\t{address}\t{place}")
        lines.append("")
    return "\n".join(lines) + "\n"


def debug2(snapshot: Snapshot) -> str:
    """Return one paragraph for each thread, task and greenlet; those that run come first."""
    ordered = sorted(snapshot.entries, key=lambda entry: entry.state != "running")
    paragraphs = [_head(snapshot)] if snapshot.is_sampled else []
    paragraphs += [_paragraph(number, entry) for number, entry in enumerate(ordered, 1)]
    return "\n".join(paragraphs)


def to_json(snapshot: Snapshot) -> dict[str, Any]:
    """Return the groups as plain data, the largest first; ages are in seconds."""
    return {
        "taken_ns": snapshot.taken_ns,
        "took_ns": snapshot.took_ns,
        "total": snapshot.total(),
        "sampled": snapshot.is_sampled,
        **{f"{kind}s": snapshot.total(kind) for kind in ("thread", "task", "greenlet")},
        "groups": [
            {
                "count": group.size,
                "kind": group.kind,
                "state": group.state,
                "labels": dict(group.labels),
                "names": sorted({entry.name for entry in group.entries if entry.name})[:20],
                "awaited_by": list(group.entries[0].awaited_by),
                "held_by": sorted({name for entry in group.entries for name in entry.held_by})[:20],
                "held_at": sorted(
                    {_held_at(entry.held_at) for entry in group.entries if entry.held_at}
                )[:20],
                "oldest_s": max(
                    (entry.age_s for entry in group.entries if entry.age_s is not None),
                    default=None,
                ),
                "frames": [
                    {"function": name, "file": file, "line": line}
                    for name, file, line, _ in group.frames
                ],
            }
            for group in snapshot.groups()
        ],
    }


def _head(snapshot: Snapshot) -> str:
    return f"# {len(snapshot.entries)} of {snapshot.total()} were read; each stands for several\n"


def _place(frame: tuple[str, str, int, int]) -> str:
    name, file, line, _ = frame
    return f"{clean_name(name)}\t{clean_name(file)}:{line}" if file else clean_name(name)


def _paragraph(number: int, entry: Entry) -> str:
    lines = [f"goroutine {number} [{entry.state}{_minutes(entry.age_s)}]:"]
    about = [f"{entry.kind} {clean_name(entry.name)}".rstrip()]
    if entry.awaited_by:
        about.append(f"awaited by {', '.join(clean_name(name) for name in entry.awaited_by)}")
    if entry.held_at is not None:
        holders = ", ".join(clean_name(name) for name in entry.held_by)
        about.append(f"waits for a lock held by {holders} at {_held_at(entry.held_at)}")
    elif entry.state == "lock":
        about.append("waits for a lock; who holds it is not recorded")
    if entry.labels:
        shown = {clean_name(key): clean_name(value) for key, value in entry.labels}
        about.append(f"labels {json.dumps(shown, ensure_ascii=False)}")
    if entry.stands_for > 1:
        about.append(f"stands for {entry.stands_for}")
    lines.append(f"# {'; '.join(about)}")
    for name, file, line, _ in entry.frames:
        lines.append(f"{clean_name(name)}(...)" if file else clean_name(name))
        if file:
            lines.append(f"\t{clean_name(file)}:{line}")
    return "\n".join(lines) + "\n"


def _held_at(frame: tuple[str, str, int, int]) -> str:
    name, file, line, _ = frame
    return f"{clean_name(name)} ({clean_name(file)}:{line})"


def _minutes(age_s: float | None) -> str:
    """As Go: only of what is older than a minute."""
    if age_s is None or age_s < 60:
        return ""
    minutes = int(age_s // 60)
    return f", {minutes} minute{'s' if minutes > 1 else ''}"
