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
from conprof_core.exporters import EncodedProfile, Outcome, Verdict, naming
from conprof_core.exporters.naming import Naming

__all__ = ["Captured", "MemoryExporter", "capture"]


class MemoryExporter:
    """Keeps what it is given in ``profiles``. Never fails unless told to.

    Attributes:
        profiles: what was delivered, oldest first.
        outcome: what ``export()`` returns; set it to play an outage.
        is_shut_down: whether ``shutdown()`` was called.
    """

    def __init__(self, names: Naming | None = None, rate_hz: int = 100) -> None:
        self.name = "memory"
        self.naming = names or naming.go(rate_hz)
        self.profiles: list[EncodedProfile] = []
        self.outcome = Outcome(Verdict.DELIVERED)
        self.is_shut_down = False

    def export(self, profile: EncodedProfile, timeout_s: float) -> Outcome:
        """Keep the profile if the outcome is a delivery."""
        del timeout_s
        if self.outcome.verdict is Verdict.DELIVERED:
            self.profiles.append(profile)
        return self.outcome

    def shutdown(self) -> None:
        """Note the call."""
        self.is_shut_down = True


class Captured:
    """What a ``capture()`` block recorded; complete when the block has ended.

    Attributes:
        profiles: encoded profiles, one a window.
        rows: aggregated rows of all windows: frames (leaf first), labels, thread, values.
    """

    def __init__(self, exporter: MemoryExporter) -> None:
        self._exporter = exporter
        self.rows: list[Row] = []

    @property
    def profiles(self) -> list[EncodedProfile]:
        """Encoded profiles, one a window."""
        return self._exporter.profiles

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
    exporter = MemoryExporter(rate_hz=int(options.get("cpu_profile_rate") or 100))
    captured = Captured(exporter)
    profiler = Profiler(**options, exporters=(exporter,))
    profiler.observe(captured.rows.extend)
    profiler.start()
    try:
        yield captured
    finally:
        profiler.stop()
