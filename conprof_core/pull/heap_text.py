"""Memory as text, in the form of Go's ``/debug/pprof/heap?debug=1``. See ``runtime/pprof``."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable

from conprof_core._engine import Row
from conprof_core._merge import clean_name

__all__ = ["debug1"]


def debug1(rows: Iterable[Row], sample_bytes: int) -> str:
    """Return one paragraph for each stack and label set, what is alive first.

    Args:
        rows: of a window.
        sample_bytes: mean distance of two samples.
    """
    ordered = sorted(rows, key=lambda row: (-row.inuse_bytes, -row.alloc_bytes))
    ordered = [row for row in ordered if row.inuse_objects or row.alloc_objects]
    objects = sum(row.inuse_objects for row in ordered)
    bytes_ = sum(row.inuse_bytes for row in ordered)
    allocated = sum(row.alloc_objects for row in ordered)
    allocated_bytes = sum(row.alloc_bytes for row in ordered)
    lines = [
        f"heap profile: {objects}: {bytes_} [{allocated}: {allocated_bytes}] "
        f"@ heap/{2 * sample_bytes}"
    ]
    for row in ordered:
        places = [_place(frame) for frame in row.frames]
        addresses = [f"0x{zlib.crc32(place.encode()) or 1:x}" for place in places]
        lines.append(
            f"{row.inuse_objects}: {row.inuse_bytes} [{row.alloc_objects}: {row.alloc_bytes}] "
            f"@ {' '.join(addresses)}"
        )
        if row.labels:
            shown = {clean_name(key): clean_name(value) for key, value in row.labels}
            lines.append(f"# labels: {json.dumps(shown, ensure_ascii=False)}")
        for address, place in zip(addresses, places, strict=True):
            lines.append(f"#\t{address}\t{place}")
        lines.append("")
    return "\n".join(lines) + "\n"


def _place(frame: tuple[str, str, int, int]) -> str:
    name, file, line, _ = frame
    return f"{clean_name(name)}\t{clean_name(file)}:{line}" if file else clean_name(name)
