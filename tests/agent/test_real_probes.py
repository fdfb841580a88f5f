"""Other people's probes, from the package index and unmodified: the agent shows what they send."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest
from support import agent as make

PROBES = {
    "blackfire_conprof": """
from blackfire_conprof.profiler import Profiler
Profiler(application_name="probed", agent_socket="tcp://127.0.0.1:%(port)d", period=2).start()
""",
    "ddtrace": """
import os
os.environ.update(DD_TRACE_AGENT_URL="http://127.0.0.1:%(port)d", DD_SERVICE="probed",
                  DD_PROFILING_UPLOAD_INTERVAL="2", DD_TRACE_ENABLED="false")
from ddtrace.profiling import Profiler
Profiler().start()
""",
}
WORK = """
import time
def planted_work():
    return sum(i * i for i in range(20_000))
until = time.monotonic() + 30
while time.monotonic() < until:
    planted_work()
"""


@pytest.mark.slow
@pytest.mark.parametrize("probe", PROBES)
def test_an_unmodified_probe_is_shown(probe: str, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    # From wheels only: where there is none for this Python, building one would take longer than it
    # is worth.
    install = [python, "-m", "pip", "install", "--quiet", "--only-binary=:all:", probe]
    installed = subprocess.run(install, capture_output=True, text=True, timeout=600)
    if installed.returncode:
        pytest.skip(f"{probe} cannot be installed: {installed.stderr.strip()[-200:]}")
    with make.Agent(tmp_path / "data") as agent:
        script = PROBES[probe] % {"port": agent.port} + WORK
        program = subprocess.Popen(
            [python, "-c", script],
            env={key: value for key, value in os.environ.items() if not key.startswith("PYTHON")},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            top = wait_for_top(agent)
        finally:
            program.kill()
            errors = program.communicate()[1]
    functions = {row["function"] for row in top}
    assert any(name.startswith("planted_work") for name in functions), (functions, errors)


def wait_for_top(agent: make.Agent) -> list[dict[str, object]]:
    deadline = time.monotonic() + 60
    rows: list[dict[str, object]] = []
    while time.monotonic() < deadline:
        services = [service["name"] for service in agent.get("services")["services"]]
        if "probed" in services:
            rows = agent.get("top", service="probed", type="cpu")["rows"]
            if any(str(row["function"]).startswith("planted_work") for row in rows):
                break
        time.sleep(0.5)
    return rows


if sys.platform == "win32":
    pytest.skip("the paths of a virtual environment are others there", allow_module_level=True)
