"""What profiling costs the application: paired slices of off and on, in one run.

    python benchmarks/cost.py                      all workloads, all profilers, 4 pairs
    python benchmarks/cost.py --workloads cpu flask --profilers conprof ddtrace --pairs 6
    python benchmarks/cost.py --json

Absolute seconds mean nothing on a shared machine. So an "off" and an "on" process live side by side
and run alternating slices of 60 to 90 ms of CPU, the other one stopped (SIGSTOP, SIGCONT); both do
the same units of work and the pair's ratio is CPU per unit on ÷ CPU per unit off, all threads and
children included. "off" against "off" stands in every table: it is the noise. A profiler is
measured only after an upload of it has named the work (proof.py): what does not profile is cheap.
Other profilers are installed into environments of their own below --cache.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from proof import prove

HERE = Path(__file__).resolve().parent
WORKLOADS = ("cpu", "threads", "flask", "starlette", "allocate")
PACKAGES = {
    "off": [],
    "conprof": [],
    "conprof-heap": [],
    "conprof-wall": [],
    "floor": [],
    "tracemalloc": [],
    "ddtrace": ["ddtrace"],
    "pyroscope": ["pyroscope-io"],
    "blackfire": ["blackfire_conprof"],
}
COMMON = ["flask", "gunicorn", "starlette", "uvicorn", "requests", "setuptools<81"]
SILENT = ("floor", "tracemalloc")  # they upload nothing
MEMORY = ("conprof-heap", "ddtrace", "pyroscope")  # what they measure in the workload "allocate"
SLICE_MS = (60, 90)
TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Side:
    """One of the two processes of a pair."""

    process: subprocess.Popen[bytes]
    progress: Path
    units: int = 0
    cpu_ns: int = 0
    client: int = 0  # the process that sends the requests, where there is one

    def pids(self) -> list[int]:
        """The process and all its children."""
        found, queue = [], [self.process.pid]
        while queue:
            pid = queue.pop()
            found.append(pid)
            try:
                for task in Path(f"/proc/{pid}/task").iterdir():
                    queue += [int(child) for child in (task / "children").read_text().split()]
            except OSError:
                pass
        return found

    def signal(self, number: int) -> None:
        """Send a signal to all of them."""
        for pid in self.pids():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def clock_ns(self) -> int:
        """CPU time of all of them but the client, threads that ended included."""
        total = 0
        for pid in self.pids():
            if pid == self.client:
                continue
            try:
                total += time.clock_gettime_ns(_process_clock(pid))
            except OSError:
                pass
        return total

    def count(self) -> int:
        """Units of work done so far: the length of a file that grows by a byte a unit."""
        try:
            return self.progress.stat().st_size
        except FileNotFoundError:
            return 0


def _process_clock(pid: int) -> int:
    """The CPU clock of another process, as clock_getcpuclockid(3) makes it."""
    return (~pid << 3) | 2


def environment(profiler: str, cache: Path) -> Path:
    """Return the Python of a profiler's environment, made on first use."""
    if profiler == "off" or profiler.startswith("conprof") or profiler in SILENT:
        directory = cache / "conprof"
        wanted = [str(HERE.parent)]
    else:
        directory = cache / profiler
        wanted = PACKAGES[profiler]
    python = directory / "bin" / "python"
    ready = directory / ".ready"
    if not ready.exists() or profiler.startswith("conprof"):
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        if not ready.exists():
            subprocess.run([*pip, *COMMON], check=True)
        subprocess.run([*pip, *wanted], check=True)
        ready.touch()
    return python


def start(python: Path, workload: str, profiler: str, directory: Path) -> Side:
    """Start one side and wait until it works."""
    progress = directory / f"{profiler}-{random.randrange(1 << 30)}"
    process = subprocess.Popen(
        [str(python), str(HERE / "cost_workloads.py"), workload, profiler, str(progress)],
        stdout=subprocess.DEVNULL,
        stderr=(directory / f"{progress.name}.log").open("wb"),
        start_new_session=True,
    )
    side = Side(process, progress)
    deadline = time.monotonic() + 60
    while side.count() < 20:
        if process.poll() is not None or time.monotonic() > deadline:
            stop(side)
            log = (directory / f"{progress.name}.log").read_text(errors="replace")
            raise RuntimeError(f"{workload} with {profiler} does not work:\n{log[-2000:]}")
        time.sleep(0.01)
    side.signal(signal.SIGSTOP)
    client = progress.with_name(progress.name + ".client")
    side.client = int(client.read_text()) if client.exists() else 0
    return side


def stop(side: Side) -> None:
    """End a side and its children."""
    try:
        os.killpg(side.process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    side.process.wait()


def pair(off: Side, on: Side, cpu_s: float) -> float:
    """Alternate slices until each side has had its CPU time; return on ÷ off per unit."""
    for side in (off, on):
        side.units, side.cpu_ns = 0, 0
    while min(off.cpu_ns, on.cpu_ns) < cpu_s * 1e9:
        order = [off, on]
        random.shuffle(order)
        for side in order:
            want = random.uniform(*SLICE_MS) * 1e6
            units, clock = side.count(), side.clock_ns()
            side.signal(signal.SIGCONT)
            end = time.monotonic() + 5
            while side.clock_ns() - clock < want and time.monotonic() < end:
                time.sleep(0.004)
            side.signal(signal.SIGSTOP)
            time.sleep(0.002)  # the stop arrives at every thread
            side.cpu_ns += side.clock_ns() - clock
            side.units += side.count() - units
            if side.process.poll() is not None:
                raise RuntimeError("a side ended")
    return (on.cpu_ns / on.units) / (off.cpu_ns / off.units)


def measure(workload: str, profiler: str, args: argparse.Namespace, scratch: Path) -> list[float]:
    """Return the ratios of some pairs of fresh processes."""
    python, plain = environment(profiler, args.cache), environment("off", args.cache)
    ratios = []
    if profiler not in ("off", *SILENT):
        memory = workload == "allocate" and profiler in MEMORY
        prove(python, workload, profiler, scratch, memory=memory)
    for number in range(args.pairs):
        print(
            f"\r{workload}, {profiler}: pair {number + 1} of {args.pairs} ", end="", file=sys.stderr
        )
        # The plain side runs in the profiler's own environment: the same versions of everything.
        off = start(python if profiler != "off" else plain, workload, "off", scratch)
        try:
            on = start(python, workload, profiler, scratch)
            try:
                ratios.append(pair(off, on, args.seconds))
            finally:
                stop(on)
        finally:
            stop(off)
    print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
    return ratios


def main() -> int:
    """Measure and print a table of added CPU in percent."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workloads", nargs="+", default=WORKLOADS, choices=WORKLOADS)
    parser.add_argument("--profilers", nargs="+", default=list(PACKAGES), choices=list(PACKAGES))
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=4.0, help="CPU seconds of each side")
    parser.add_argument("--json", action="store_true")
    default_cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "conprof"
    parser.add_argument("--cache", type=Path, default=default_cache / "cost")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    profilers = ["off", *[profiler for profiler in args.profilers if profiler != "off"]]
    import tempfile

    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="conprof-cost-") as scratch:
        for workload in args.workloads:
            found[workload] = {}
            for profiler in profilers:
                try:
                    ratios = measure(workload, profiler, args, Path(scratch))
                except (RuntimeError, subprocess.CalledProcessError) as error:
                    print(f"\n{workload}, {profiler}: {error}", file=sys.stderr)
                    continue
                found[workload][profiler] = ratios
                if not args.json:
                    added = [100 * (ratio - 1) for ratio in ratios]
                    print(
                        f"{workload:10} {profiler:10} {statistics.median(added):+7.2f} %   "
                        f"pairs: {' '.join(f'{one:+.1f}' for one in sorted(added))}",
                        flush=True,
                    )
    if args.json:
        print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
