"""``conprof demo``: all three shops, with the CPU that their routes are known to use."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from example_apps import work

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "conprof_core.cli.main", "demo"]
TRUTH_MS = {
    "/recommend": work.RECOMMEND_CPU_S * 1000,
    "/reports": work.REPORT_CPU_S * 1000,
    "/orders": work.CONFIRM_CPU_S * 1000,
}


@pytest.mark.slow
def test_the_first_table_shows_what_each_route_is_known_to_use() -> None:
    """Plus what the framework and the database add to a request, which is a few milliseconds."""
    ended = subprocess.run(
        [*COMMAND, "--once"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"Viewer: http://127\.0\.0\.1:\d+/", ended.stdout)
    shops = re.split(r"(?m)^(\w+_shop): CPU by route", ended.stdout)[1:]
    assert shops[::2] == ["django_shop", "flask_shop", "starlette_shop"]
    for shop, table in zip(shops[::2], shops[1::2], strict=True):
        for route, truth_ms in TRUTH_MS.items():
            found = re.search(rf"(?m)^  {route}/\S+ +[\d.]+ % +([\d.]+) ms ", table)
            assert found, f"{shop} {route}\n{table}"
            # A window may end amid a request, whose CPU is in it and whose count is not.
            assert 0.85 * truth_ms < float(found[1]) < 1.15 * truth_ms + 8, f"{shop}\n{table}"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the children in /proc")
def test_nothing_is_left_when_it_is_terminated() -> None:
    demo = subprocess.Popen(COMMAND, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    assert "Viewer" in demo.stdout.readline()
    children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()
    assert len(children) == 7, "the agent, three shops and their traffic"
    demo.send_signal(signal.SIGTERM)
    assert demo.wait(30) == 128 + signal.SIGTERM
    demo.stdout.close()
    deadline = time.monotonic() + 5
    while left := [pid for pid in children if os.path.exists(f"/proc/{pid}")]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
