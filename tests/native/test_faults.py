"""Walks at any instruction, beside chunks of frames that are unmapped when they are popped."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parents[1] / "faults" / "run.py"

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the faults know one kind of processor"
)


@pytest.mark.parametrize("program", ["tree_walk", "generators"])
def test_nothing_that_was_popped_is_read(program: str) -> None:
    done = subprocess.run(
        [sys.executable, str(RUN), "--seconds", "4", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
