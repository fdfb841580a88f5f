"""Doubles for tests of programs that use conprof: an exporter in memory, and ``capture()``.

with capture() as captured:
    work()
assert captured.cpu_ns("shop.views.checkout") > 0
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from conprof_core._engine import Row
from conprof_core._profiler import Profiler
from conprof_core.exporters import EncodedWindow, Outcome, Verdict, naming
from conprof_core.exporters.naming import Measured, Naming

__all__ = ["Captured", "MemoryExporter", "capture"]


class MemoryExporter:
    """Keeps what it is given in ``windows``. Never fails unless told to.

    Attributes:
        windows: what was delivered, oldest first.
        outcome: what ``export()`` returns; set it to play an outage.
        is_shut_down: whether ``shutdown()`` was called.
    """

    def __init__(self, names: Naming | None = None) -> None:
        self.name = "memory"
        self._names = names
        self.measure(Measured())
        self.windows: list[EncodedWindow] = []
        self.outcome = Outcome(Verdict.DELIVERED)
        self.is_shut_down = False

    def measure(self, measured: Measured) -> None:
        """Name what is measured from now on, unless names were given."""
        self.naming = self._names or naming.go(measured)

    def export(self, window: EncodedWindow, timeout_s: float) -> Outcome:
        """Keep the window if the outcome is a delivery."""
        del timeout_s
        if self.outcome.verdict is Verdict.DELIVERED:
            self.windows.append(window)
        return self.outcome

    def shutdown(self) -> None:
        """Note the call."""
        self.is_shut_down = True


class Captured:
    """What a ``capture()`` block recorded; complete when the block has ended.

    Attributes:
        windows: what was encoded, one a window.
        rows: aggregated rows of all windows: frames (leaf first), labels, thread, values.
    """

    def __init__(self, exporter: MemoryExporter) -> None:
        self._exporter = exporter
        self.rows: list[Row] = []

    @property
    def windows(self) -> list[EncodedWindow]:
        """What was encoded, one a window."""
        return self._exporter.windows

    def cpu_ns(self, function: str | None = None, **labels: str) -> int:
        """Return the CPU time of rows that have this function in their stack and these labels.

        ``function`` is compared with the qualified name. A label key with a dot is passed as
        ``**{"http.route": "/"}``.
        """
        wanted = labels.items()
        return sum(
            row.cpu_ns
            for row in self.rows
            if wanted <= dict(row.labels).items()
            and (function is None or any(frame[0] == function for frame in row.frames))
        )


@contextmanager
def capture(**options: Any) -> Iterator[Captured]:
    """Profile the block into memory.

    Options are those of ``conprof_core.start``.

    Raises:
        AlreadyRunningError: a profiler runs already.
    """
    exporter = MemoryExporter()
    captured = Captured(exporter)
    profiler = Profiler(**options, exporters=(exporter,))
    exporter.measure(profiler.config.measured)
    profiler.observe(captured.rows.extend)
    profiler.start()
    try:
        yield captured
    finally:
        profiler.stop()
