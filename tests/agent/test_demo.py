"""``conprof demo``: all three shops, with the CPU that their routes are known to use."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from conprof_core import EngineUnavailableError
from conprof_core._engine import choose
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
        shares, expected = {}, {}
        for route, truth_ms in TRUTH_MS.items():
            found = re.search(
                rf"(?m)^  {route}/\S+ +([\d.]+) % +([\d.]+) ms .* ([\d.]+) (m?s)$", table
            )
            assert found, f"{shop} {route}\n{table}"
            # A window may end amid a request, whose CPU is in it and whose count is not.
            per_request = float(found[2])
            assert 0.85 * truth_ms < per_request < 1.15 * truth_ms + 8, f"{shop}\n{table}"
            total_ms = float(found[3]) * (1000 if found[4] == "s" else 1)
            shares[route] = float(found[1])
            expected[route] = round(total_ms / per_request) * truth_ms
        # What is known of the work: these routes are nearly all of it, and so divided.
        known = sum(shares.values())
        assert known > 60, f"{shop}\n{table}"
        for route, work_ms in expected.items():
            right = 100 * work_ms / sum(expected.values())
            assert abs(100 * shares[route] / known - right) < 5, f"{shop} {route}\n{table}"


@pytest.mark.slow
def test_every_type_of_profile_is_there_to_look_at() -> None:
    if os.environ.get("CONPROF_ENGINE") == "portable":
        pytest.skip("the portable engine was demanded")
    try:
        choose("native")
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    demo = subprocess.Popen(COMMAND, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert demo.stdout is not None
        url = demo.stdout.readline().split()[-1]
        wanted = {"cpu", "wall", "alloc_space", "heap_space", "goroutines"}
        found: dict[str, set[str]] = {}
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (
            len(found) == 3 and all(wanted <= types for types in found.values())
        ):
            time.sleep(1)
            with urllib.request.urlopen(f"{url}api/v1/services", timeout=30) as answer:
                services = json.load(answer)["services"]
            found = {s["name"]: {t["name"] for t in s["types"] if t["total"]} for s in services}
        assert sorted(found) == ["django_shop", "flask_shop", "starlette_shop"]
        assert all(wanted <= types for types in found.values()), found
    finally:
        demo.send_signal(signal.SIGTERM)
        demo.communicate(timeout=30)


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
