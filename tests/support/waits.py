"""Threads that wait, and what a captured profile says of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from conprof_core.testing import Captured


def wall_s(captured: Captured, function: str, **labels: str) -> float:
    """Return wall seconds of rows with this function in their stack and these labels."""
    return (
        sum(
            row.wall_ns
            for row in captured.rows
            if labels.items() <= dict(row.labels).items()
            and any(frame[0].rpartition(".")[2] == function for frame in row.frames)
        )
        / 1e9
    )


def run_threads(targets: Iterable[Callable[[], None]]) -> None:
    """Run each in a thread of its own until all have ended."""
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
