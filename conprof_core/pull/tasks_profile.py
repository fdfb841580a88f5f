"""The profile of threads, tasks and greenlets, which is a snapshot: no profiler need run."""

from __future__ import annotations

import os
from collections.abc import Iterable

from conprof_core import _tasks_text
from conprof_core._engine import Row
from conprof_core._engine.tasks import snapshot
from conprof_core._pprof import encode_profile
from conprof_core._span import Span
from conprof_core._window import compressed, mapping_file
from conprof_core.exporters import naming
from conprof_core.pull import answer
from conprof_core.pull.answer import Answer

__all__ = ["TasksProfile"]


class TasksProfile:
    """See ``Readable``.

    Args:
        use_extension: see ``conprof_core._engine.tasks.snapshot``.
    """

    def __init__(self, *, use_extension: bool) -> None:
        self._use_extension = use_extension
        self._before: list[Row] = []
        self._span = Span()

    def now(self, debug: int) -> Answer:
        """Return a snapshot: as pprof, in groups (1) or one by one (2)."""
        taken = snapshot(use_extension=self._use_extension)
        if debug:
            return answer.text((_tasks_text.debug1 if debug == 1 else _tasks_text.debug2)(taken))
        return _encode(taken.rows(), taken.taken_ns, taken.taken_ns, "goroutine")

    def begin(self) -> None:
        """Take the snapshot that the second is compared with."""
        self._span = Span()
        self._before = snapshot(use_extension=self._use_extension).rows()

    def end(self) -> Answer:
        """Return what has become more and, as negative numbers, less."""
        after = snapshot(use_extension=self._use_extension).rows()
        counts: dict[Row, int] = {}
        for rows, sign in ((self._before, -1), (after, 1)):
            for row in rows:
                key = row._replace(tasks=0)
                counts[key] = counts.get(key, 0) + sign * row.tasks
        changed = [row._replace(tasks=count) for row, count in counts.items()]
        return _encode(changed, self._span.start_ns, self._span.end_ns(), "goroutine-delta")

    def abandon(self) -> None:
        """Nothing is held."""


def _encode(rows: Iterable[Row], start_ns: int, end_ns: int, file: str) -> Answer:
    pprof = encode_profile(
        rows,
        naming.pull_shape("goroutine"),
        naming.pull(),
        start_ns=start_ns,
        end_ns=end_ns,
        mapping_file=mapping_file(),
        comments=(f"process {os.getpid()}",),
    )
    assert pprof is not None, "the first part of a profile is never missing"
    return answer.profile(file, compressed(pprof))
