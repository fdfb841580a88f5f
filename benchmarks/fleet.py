"""What a process uploads: bytes and series per window, for each destination and set of types.

    python benchmarks/fleet.py [--window 45] [--windows 3] [--json]

The Flask shop of ``example_apps`` is served by threads of this process and visited by another one.
Each window is encoded for every destination under every set of profile types; what is counted is
the body of the upload as it leaves, gzip included, without the head of the request (400 bytes).
A series is what a server indexes: for Pyroscope a profile name with a set of labels, for OTLP a
sample type with a set of attributes. The loads:

    busy      four visitors without a pause, 100 Hz
    busy20    the same at 20 Hz
    third     the same at 100 Hz, measured for a third of each window
    calm      five requests a second, 100 Hz
    idle      no request at all

The switches between them are made with ``conprof_core.reconfigure``, in one process.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from werkzeug.serving import make_server

import conprof_core as conprof
from conprof_core.exporters import EncodedWindow, Outcome, Verdict, naming
from conprof_core.exporters.blackfire import encode_multipart
from conprof_core.exporters.naming import Measured, Naming
from conprof_core.exporters.pyroscope import encode_push

ROOT = Path(__file__).resolve().parents[1]
SETS = ("cpu", "cpu heap", "cpu wall", "cpu tasks", "cpu wall heap tasks")
ALL = ("cpu", "wall", "heap", "tasks")

Row = tuple[str, str, str, int, int, int]  # load, destination, types, bytes, series, samples


class Counter:
    """An exporter that only counts; named as a destination and a set of types."""

    def __init__(self, destination: str, types: str) -> None:
        self.name = f"{destination} {types}"
        self._destination = destination
        self._types = types
        self._taken: list[tuple[str, EncodedWindow]] = []
        self.load = ""
        self.naming = self._names(100)

    def _names(self, rate_hz: int) -> Naming:
        makers: dict[str, Callable[[Measured], Naming]] = {
            "blackfire": naming.blackfire,
            "file": naming.go,
            "pyroscope": naming.pyroscope,
            "otlp": naming.otlp,
        }
        return makers[self._destination](Measured(rate_hz, tuple(self._types.split())))

    def measure(self, measured: Measured) -> None:
        """Keep the types, follow the rate."""
        self.naming = self._names(measured.rate_hz)

    def export(self, window: EncodedWindow, timeout_s: float) -> Outcome:
        """Keep, to be counted when nothing is measured any more."""
        del timeout_s
        if self.load:
            self._taken.append((self.load, window))
        return Outcome(Verdict.DELIVERED)

    def rows(self) -> list[Row]:
        """Count."""
        rows: list[Row] = []
        for load, window in self._taken:
            size, series = window.bytes, 0
            if self._destination == "pyroscope":
                size, series = len(encode_push(window)), pprof_series(window)
            elif self._destination == "blackfire":
                size = len(encode_multipart(window)[0])
            rows.append((load, self._destination, self._types, size, series, window.samples))
        return rows

    def shutdown(self) -> None:
        """Nothing is held."""


def pprof_series(window: EncodedWindow) -> int:
    """Return how many series Pyroscope makes of a window: sample types times label sets."""
    sys.path.insert(0, str(ROOT / "tests"))
    from support.pprof_reader import parse

    total = 0
    for encoded in window.profiles:
        profile = parse(encoded.pprof_gz)
        sets = {tuple(sorted(sample.labels.items())) for sample in profile.samples}
        total += len(sets) * len(profile.sample_types)
    return total


def serve() -> str:
    """Serve the shop on a free port, each connection in a thread of its own."""
    sys.path.append(str(ROOT))
    from example_apps.flask_shop.app import create_app

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    logging.getLogger("conprof").setLevel(logging.CRITICAL)
    server = make_server("127.0.0.1", 0, create_app(), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def calm(url: str, seconds: float) -> None:
    """Five requests a second, of the usual kinds."""
    from example_apps.traffic import plan, visit

    until = time.monotonic() + seconds
    seed = 0
    while time.monotonic() < until:
        seed += 1
        for request in plan({"home": 4, "product": 6, "recommend": 1, "supplier": 1}, seed):
            if time.monotonic() >= until:
                return
            visit(url, [request], 1)
            time.sleep(0.2)


def visitors(url: str, seconds: float) -> subprocess.Popen[bytes]:
    """Start a process of visitors."""
    source = f"""
import sys
sys.path.append({str(ROOT)!r})
sys.argv = ["traffic", {url!r}, "--seconds", "{seconds}", "--concurrency", "4"]
from example_apps.traffic import main
main()
"""
    return subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.DEVNULL)


def calm_process(url: str, seconds: float) -> subprocess.Popen[bytes]:
    """The same for five requests a second."""
    source = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "benchmarks")!r}]
import fleet
fleet.calm({url!r}, {seconds})
"""
    return subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.DEVNULL)


def run(window_s: float, windows: int) -> dict[str, Any]:
    """Run all loads and return medians."""
    counters = [
        Counter(destination, types)
        for destination in ("blackfire", "file", "pyroscope", "otlp")
        for types in SETS
    ]
    profiler = conprof.Profiler(
        application_name="shop",
        exporters=counters,
        profile_types=ALL,
        period=window_s,
    )
    profiler.start()
    url = serve()
    loads: dict[str, tuple[dict[str, Any], Callable[[str, float], subprocess.Popen[bytes]] | None]]
    loads = {
        "busy": ({"cpu_profile_rate": 100}, visitors),
        "busy20": ({"cpu_profile_rate": 20}, visitors),
        "third": ({"cpu_profile_rate": 100, "cpu_duration": window_s / 3}, visitors),
        "calm": ({"cpu_duration": window_s}, calm_process),
        "idle": ({"cpu_duration": window_s}, None),
    }
    for load, (changes, start) in loads.items():
        visiting = None if start is None else start(url, window_s * windows + 5)
        time.sleep(2)  # the visitors have come
        conprof.reconfigure(**changes)
        conprof.flush(30)  # what is not of this load
        if load == "third":
            conprof.reconfigure(cpu_duration=window_s)  # the window begins at the switch
            conprof.reconfigure(**changes)
        for counter in counters:
            counter.load = load
        before = profiler.stats()["windows"]
        while profiler.stats()["windows"] < before + windows:
            time.sleep(0.1)
        while profiler.stats()["queued"]:
            time.sleep(0.1)
        time.sleep(0.5)
        for counter in counters:
            counter.load = ""
        if visiting is not None:
            visiting.wait()
    profiler.stop()
    return summary([row for counter in counters for row in counter.rows()])


def summary(rows: list[Row]) -> dict[str, Any]:
    """Return load → destination → types → medians."""
    found: dict[str, Any] = {}
    for load, destination, types, *_ in rows:
        same = [row for row in rows if row[:3] == (load, destination, types)]
        found.setdefault(load, {}).setdefault(destination, {})[types] = {
            "bytes": round(statistics.median(row[3] for row in same)),
            "series": round(statistics.median(row[4] for row in same)),
            "samples": round(statistics.median(row[5] for row in same)),
            "windows": len(same),
        }
    return found


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="bytes and series of an upload")
    parser.add_argument("--window", type=float, default=45.0, help="seconds (default: 45)")
    parser.add_argument("--windows", type=int, default=3, help="of each load (default: 3)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = run(arguments.window, arguments.windows)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    hourly = 3_600 / arguments.window
    print(f"windows of {arguments.window:g} s; kB a window, MB a process and hour, series")
    for load, destinations in found.items():
        samples = destinations["file"]["cpu"]["samples"]
        print(f"\n{load}: {samples} samples of CPU a window")
        for types in SETS:
            line = f"  {types:<22}"
            for destination, sets in destinations.items():
                size = sets[types]["bytes"]
                line += f"  {destination} {size / 1e3:.1f} kB {size * hourly / 1e6:.2f} MB/h"
                if sets[types]["series"]:
                    line += f" {sets[types]['series']} series"
            print(line)


if __name__ == "__main__":
    main()
