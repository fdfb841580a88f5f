"""A leak planted in one route of the example shop: a comparison of two windows names it first."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("flask")

from conprof_core import Profiler, _native
from conprof_core.cli import main
from example_apps.flask_shop.app import create_app

LEAK: list[bytes] = []


def remember_visit() -> None:
    """Forty kilobytes a request that nobody ever lets go."""
    LEAK.append(bytes(40_000))


@pytest.mark.skipif(
    os.environ.get("CONPROF_ENGINE") == "portable" or not hasattr(_native, "self_test"),
    reason="the native engine is not here, or another one was demanded",
)
def test_the_first_line_is_the_leak_under_its_route(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = create_app()
    app.add_url_rule("/wish/<int:number>", "wish", lambda number: (remember_visit(), "ok")[1])
    client = app.test_client()

    def visit() -> None:
        for number in range(250):
            for path in (f"/wish/{number}", "/"):
                with client.get(path, buffered=True) as response:
                    assert response.status_code == 200

    profiler = Profiler(
        application_name="shop",
        profile_types="cpu,heap",
        heap_sample_bytes=65536,
        export_to=f"file://{tmp_path}",
    )
    profiler.start()
    try:
        for _ in range(3):
            visit()
            assert profiler.flush(10)
    finally:
        profiler.stop()
        LEAK.clear()
    windows = sorted(tmp_path.glob("*.heap.pb.gz"))
    assert len(windows) >= 3
    command = ["diff", "--type", "inuse_space", str(windows[0]), str(windows[2])]
    assert main.main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scaled"] == "state"
    route, function = found["rows"][0], found["functions"][0]
    assert route["value"] == "/wish/<int:number>"
    assert function["function"] == "remember_visit"
    # Two rounds of 250 requests lie between the two.
    for row in (route, function):
        assert row["now"] - row["before"] == pytest.approx(2 * 250 * 40_000, rel=0.15)
    assert main.main(command) == 0
    text = capsys.readouterr().out
    assert text.startswith("heap_space, alive\n")
    assert "/s" not in text.split("\n\n")[1]
