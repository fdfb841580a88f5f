"""What an import and a start bring into a process, which pays for it in every worker."""

from __future__ import annotations

import sys

import pytest
from support.process import run_command

# Each of these costs a process more than the package's own modules do together, or opens sockets.
HEAVY = {
    "asyncio",
    "concurrent.futures.thread",
    "dataclasses",
    "email",
    "http",
    "inspect",
    "json",
    "logging",
    "multiprocessing",
    "pathlib",
    "platform",
    "requests",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "traceback",
    "urllib.request",
}


@pytest.mark.parametrize(
    "code",
    [
        "import conprof_core",
        "import conprof_core; conprof_core.start(period=1000)",
        "import conprof_core\nwith conprof_core.labels(job='x'): pass",
    ],
    ids=["import", "start", "labels"],
)
def test_neither_import_nor_start_brings_in_heavy_modules(code: str) -> None:
    report = "\nimport sys, os; print(*sys.modules, flush=True); os._exit(0)"
    bare = run_command([sys.executable, "-c", report.lstrip()]).stdout.split()
    loaded = run_command([sys.executable, "-c", code + report]).stdout.split()
    assert "conprof_core._profiler" in loaded
    assert sorted(HEAVY & (set(loaded) - set(bare))) == []
