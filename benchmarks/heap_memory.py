"""What the heap profile weighs: resident memory with 1 GB of small objects alive, off and on.

    python benchmarks/heap_memory.py

Each figure is the median of three processes. Goal: at most 4 MiB more than with CPU alone.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile

PROGRAM = """
import sys
from pathlib import Path
import conprof_core
types = sys.argv[1]
if types != "off":
    conprof_core.start(profile_types=types, export_to="file:///nonexistent/conprof", period=3600)
    assert conprof_core.stats()["engine"] == "native", "the premise"
kept = [None] * int(sys.argv[2])
for at in range(len(kept)):
    kept[at] = bytes(95)
status = Path("/proc/self/smaps_rollup").read_text().splitlines()
print(next(int(line.split()[1]) for line in status if line.startswith("Rss:")))
"""


def resident_kib(types: str, objects: int) -> float:
    """Return the median of three runs."""
    command = [sys.executable, "-c", PROGRAM, types, str(objects)]
    # Not from the tree: there the sources would hide the installed package.
    cwd = tempfile.gettempdir()
    return statistics.median(int(subprocess.check_output(command, cwd=cwd)) for _ in range(3))


def main() -> int:
    """Measure and judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--objects", type=int, default=7_500_000, help="of 128 bytes each")
    args = parser.parse_args()
    found = {types: resident_kib(types, args.objects) for types in ("off", "cpu", "cpu,heap")}
    for types, kib in found.items():
        print(f"{types:9} {kib / 1024:9.1f} MiB   {(kib - found['off']) / 1024:+6.2f} MiB")
    return 0 if found["cpu,heap"] - found["cpu"] <= 4096 else 1


if __name__ == "__main__":
    sys.exit(main())
