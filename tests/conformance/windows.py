"""A window of all types that the tests of OTLP receivers send."""

from __future__ import annotations

import time

from conprof_core import Config
from conprof_core._engine import Row
from conprof_core._engine._table import PortableWindow
from conprof_core._process import Process
from conprof_core._window import Window
from conprof_core.exporters import Destination, EncodedWindow, create
from conprof_core.exporters.naming import Measured
from conprof_core.exporters.otlp import OTLPExporter

EVERYTHING = Measured(100, ("cpu", "heap", "wall", "tasks"))


def exporter_of(url: str) -> OTLPExporter:
    """Return the exporter for a URL, of a session that measures everything."""
    exporter = create(Destination(url, EVERYTHING, ""))
    assert isinstance(exporter, OTLPExporter)
    return exporter


def values(n: int) -> dict[str, int]:
    """Return a value for each column that there is, often 0, and sums that tell columns apart."""
    return {
        column: (n + place) % (place % 5 + 2) * (place * 1_009 + 1)
        for place, column in enumerate(Row._fields[3:-1])
    }


def rows() -> list[Row]:
    """Rows of all types with stacks and labels that repeat, and frames without a file."""
    made = []
    for n in range(400):
        frames = [
            (f"f{level}_{n % (level + 2)}", f"/srv/é/{level}.py", n % 50 + 1, level + 1)
            for level in range(1 + n % 30)
        ]
        frames.append(("[lost]", "", 0, 0) if n % 17 == 0 else ("<module>", "/srv/m.py", 1, 1))
        found = (("http.route", f"/r/{n % 7}"), ("tenant", str(n % 11)))
        made.append(Row(tuple(frames), found, "worker", **values(n)))
    return made


def window(exporter: OTLPExporter) -> EncodedWindow:
    """Return these rows as a window that ended now."""
    taken = PortableWindow(rows(), time.time_ns() - 5_000_000_000, {"truncated": 7}, time.time_ns())
    process = Process(Config(application_name="shop", labels={"tier": "web"}))
    made = Window(taken, process, engine="test", sequence=0, lost_windows=0, requests={})
    return made.encode(exporter.naming)
