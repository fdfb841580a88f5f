"""Live memory by ``tracemalloc``: what the portable engine can offer, and only on demand.

``tracemalloc`` notes each allocation with its stack, which makes a program that allocates much many
times slower, and the end of a window some seconds longer for each million blocks. So it is never on
unless asked for. It knows files and lines, but no functions, labels or threads, and nothing of what
was freed: only live blocks and bytes are told.
"""

from __future__ import annotations

import os
import tracemalloc
from typing import Final

from conprof_core import _log
from conprof_core._engine import Row
from conprof_core._limits import TRACED_FRAMES

__all__ = ["TracedMemory"]

_OWN: Final = (os.path.dirname(os.path.dirname(__file__)) + os.sep, tracemalloc.__file__)
_TRUNCATED: Final = ("[truncated]", "", 0, 0)
_OVERFLOW: Final = ("[stack table full]", "", 0, 0)


class TracedMemory:
    """What is alive of that which was allocated since ``start()``. One per process.

    Whoever started ``tracemalloc`` before keeps it: then its number of frames holds, and older
    blocks are told as well.
    """

    def __init__(self) -> None:
        self._is_ours = False
        self._max_rows = 0

    def start(self, max_rows: int) -> None:
        """Trace from now on; ``max_rows`` distinct stacks are told in one window."""
        self._max_rows = max_rows
        if tracemalloc.is_tracing():
            return
        tracemalloc.start(TRACED_FRAMES)
        self._is_ours = True
        _log.log(
            _log.ERROR,
            "heap",
            "live memory is profiled with tracemalloc, as demanded: a program that allocates much "
            "takes many times as long",
        )

    def stop(self) -> None:
        """Trace no more, if it was us who began."""
        if self._is_ours:
            tracemalloc.stop()
        self._is_ours = False

    def forget(self) -> None:
        """In the child of a fork: what was allocated before is the parent's."""
        if self._is_ours:
            tracemalloc.clear_traces()

    def rows(self) -> list[Row]:
        """Return what is alive now by stack, largest first; empty when nobody traces."""
        if not tracemalloc.is_tracing():
            return []
        rows: list[Row] = []
        objects = bytes_ = 0
        for one in tracemalloc.take_snapshot().statistics("traceback"):
            if one.traceback[-1].filename.startswith(_OWN):
                continue
            if len(rows) < self._max_rows:
                frames = _frames(one.traceback)
                rows.append(Row(frames, (), "", inuse_objects=one.count, inuse_bytes=one.size))
            else:
                objects += one.count
                bytes_ += one.size
        if objects:
            rows.append(Row((_OVERFLOW,), (), "", inuse_objects=objects, inuse_bytes=bytes_))
        return rows


def _frames(traceback: tracemalloc.Traceback) -> tuple[tuple[str, str, int, int], ...]:
    frames = [
        (f"{os.path.basename(frame.filename)}:{frame.lineno}", frame.filename, frame.lineno, 1)
        for frame in reversed(traceback)
    ]
    if (traceback.total_nframe or 0) > len(frames):
        frames.append(_TRUNCATED)
    return tuple(frames)
