"""google/pprof's own tool, run on files and URLs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from support.process import Result, run_command

ROOT = Path(__file__).resolve().parents[2]


def get_tool() -> str:
    """Return the path of the tool, built if need be; skips the test if it cannot be had."""
    got = subprocess.run(
        [str(ROOT / ".ci" / "get-pprof")], capture_output=True, text=True, timeout=600
    )
    if got.returncode:
        pytest.skip(got.stderr.strip())
    return got.stdout.strip()


def run_tool(tool: str, home: Path, *arguments: str, check: bool = True) -> Result:
    """Run the tool without the user's own settings and without a symbol server."""
    environment = {**os.environ, "HOME": str(home), "PPROF_TMPDIR": str(home)}
    return run_command([tool, *arguments], env=environment, check=check)
