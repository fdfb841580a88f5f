"""The conprof command: verbs, run in all its forms, and the doctor's report."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest
from support.check_valid import check_bytes
from support.fake_agent import FakeAgent
from support.pprof_reader import Profile
from support.process import Result, run_command

from conprof_core.cli import _facts
from conprof_core.cli import main as main_module

PROGRAM = """
import os, subprocess, sys, time
def burn(cpu_s):
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(500))
burn(0.15)
if "child" in sys.argv:
    subprocess.run([sys.executable, __file__], check=True)
print(os.getpid(), sys.argv[1:], [path for path in sys.path if "conprof_core" in path])
sys.exit(3 if "fail" in sys.argv else 0)
"""


def conprof(*arguments: str | Path, check: bool = True, **env: str | None) -> Result:
    command = [sys.executable, "-m", "conprof_core.cli.main", *arguments]
    return run_command(command, env=env, check=check)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "shop_app.py"
    path.write_text(PROGRAM)
    return path


def read(directory: Path) -> dict[str, Profile]:
    return {path.name: check_bytes(path.read_bytes()) for path in directory.glob("*.pb.gz")}


def test_help_imports_no_verb() -> None:
    result = conprof("--help")
    for verb, line in main_module.VERBS.items():
        assert verb in result.stdout
        assert line in result.stdout
    code = "import sys; from conprof_core.cli.main import main\ntry: main(['--help'])\n"
    code += "except SystemExit: pass\nprint([m for m in sys.modules if 'cli.' in m])"
    loaded = run_command([sys.executable, "-c", code]).stdout.splitlines()[-1]
    assert loaded == "['conprof_core.cli.main']"


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["--nonsense"]])
def test_wrong_usage(arguments: list[str]) -> None:
    result = conprof(*arguments, check=False)
    assert result.returncode == 2
    assert "usage: conprof" in result.stderr


def test_version() -> None:
    assert conprof("--version").stdout.startswith("conprof ")


def test_a_missing_extra_is_told_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'duckdb'", name="duckdb")

    monkeypatch.setattr(main_module, "import_module", missing)
    assert main_module.main(["agent"]) == 2
    assert "pip install 'conprof[agent]'" in capsys.readouterr().err


def test_run_a_script(engine: str, program: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = conprof("run", "--export-to", out.as_uri(), program, "a b", "--rate", "x", check=False)
    result.check()
    pid, _, rest = result.stdout.partition(" ")
    assert rest == "['a b', '--rate', 'x'] []\n", "arguments and sys.path are the program's own"
    profiles = read(out)
    assert list(profiles) == [f"shop_app-{pid}-000000.pb.gz"]
    assert profiles.popitem()[1].by_function()["burn"] > 0.1e9
    assert not result.stderr


def test_run_children_and_status(engine: str, program: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = conprof("run", "--export-to", out.as_uri(), program, "child", "fail", check=False)
    assert result.returncode == 3
    assert len(read(out)) == 2
    other = tmp_path / "other"
    conprof("run", "--no-children", "--export-to", other.as_uri(), program, "child")
    assert len(read(other)) == 1


def test_run_a_module_and_a_command(engine: str, program: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--export-to", out.as_uri(), "--app-name", "named", "--labels", "tier=web"]
    here = {"PYTHONPATH": str(program.parent)}
    conprof("run", *options, "--rate", "50", "-m", "shop_app", "x", **here)
    conprof("run", *options, "--", sys.executable, program)
    profiles = read(out)
    assert {name.split("-")[0] for name in profiles} == {"named"}
    assert sorted(profile.period for profile in profiles.values()) == [10**7, 2 * 10**7]


def test_run_chooses_what_is_measured(engine: str, program: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    conprof("run", "--types", "cpu,tasks", "--export-to", out.as_uri(), program)
    types = {known.type for profile in read(out).values() for known in profile.sample_types}
    assert types == {"samples", "cpu", "goroutine"}
    refused = conprof("run", "--types", "cpu,fuel", program, check=False)
    assert refused.returncode == 2
    assert "available are: cpu" in refused.stderr


def test_run_gets_out_of_the_way_of_a_sitecustomize(program: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text("print('mine', __file__.endswith('sitecustomize.py'))")
    out = tmp_path / "out"
    result = conprof("run", "--export-to", out.as_uri(), program, PYTHONPATH=str(own))
    assert result.stdout.startswith("mine True\n")
    assert len(read(out)) == 1


def test_run_and_an_explicit_start(engine: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    program = tmp_path / "app.py"
    program.write_text(
        "import conprof_core\nconprof_core.start(application_name='explicit')\nsum(range(10**7))"
    )
    conprof("run", "--app-name", "launched", "--export-to", out.as_uri(), program)
    assert "explicit" in {name.split("-")[0] for name in read(out)}


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["run"], 2, "name the program"),
        (["run", "--"], 2, "name the program"),
        (["run", "--rate", "0", "x.py"], 2, "cpu_profile_rate='0' is not usable"),
        (["run", "--export-to", "ftp://x", "x.py"], 2, "the schemes are blackfire:, file:"),
        (["run", "no-such-command-here"], 127, "command not found"),
    ],
)
def test_run_says_what_is_wrong(arguments: list[str], status: int, words: str) -> None:
    result = conprof(*arguments, check=False)
    assert result.returncode == status
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_run_never_keeps_the_program_from_running(program: Path) -> None:
    result = conprof("run", program, CONPROF_ENGINE="nonsense", BLACKFIRE_AGENT_SOCKET="nonsense")
    assert "[]" in result.stdout
    assert "CONPROF_ENGINE='nonsense' is ignored" in result.stderr


def test_doctor_for_programs(engine: str, agent: FakeAgent) -> None:
    result = conprof(
        "doctor", "--json", "--send", BLACKFIRE_AGENT_SOCKET=agent.url, CONPROF_ENGINE=engine,
        BLACKFIRE_SERVER_TOKEN="hunter2",
    )  # fmt: skip
    report = json.loads(result.stdout)
    assert report["problems"] == []
    assert report["engine"]["name"] == engine
    assert [sent["delivered"] for sent in report["sent"]] == [True]
    rows = {row["option"]: row for row in report["configuration"]}
    assert rows["agent_socket"]["value"] == agent.url
    assert rows["agent_socket"]["source"] == "BLACKFIRE_AGENT_SOCKET"
    assert rows["period"]["source"] == "default"
    assert rows["server_token"]["value"] == "(set)"
    assert "hunter2" not in result.stdout
    (upload,) = agent.wait_for(1)
    assert upload.tags["service"] == "conprof-doctor"


def test_doctor_for_people(tmp_path: Path) -> None:
    result = conprof("doctor", CONPROF_EXPORT_TO=tmp_path.as_uri(), check=False)
    assert "\x1b" not in result.stdout, "no colour but on a terminal"
    for words in ("Engine", "Configuration", "Destinations", "CPython", str(tmp_path)):
        assert words in result.stdout


def kernel_ticks() -> int:
    return int(_facts._timer_hz() or 1000)


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"BLACKFIRE_AGENT_SOCKET": "unix:///nowhere/x.sock"}, "no such socket"),
        ({"BLACKFIRE_AGENT_SOCKET": "tcp://127.0.0.1:9"}, "nobody listens"),
        ({"BLACKFIRE_AGENT_SOCKET": "nonsense"}, "BLACKFIRE_AGENT_SOCKET='nonsense' is ignored"),
        ({"CONPROF_EXPORT_TO": "file:///proc/1/x"}, "cannot be used"),
        ({"BLACKFIRE_CONPROF_CPU_PROFILERATE": "1000"}, "CONFIG_HZ"),
        ({"CONPROF_DISABLED": "1"}, "CONPROF_DISABLED"),
        (
            {"CONPROF_ENGINE": "portable", "CONPROF_PROFILE_TYPES": "cpu,heap"},
            "CONPROF_HEAP_TRACEMALLOC=1",
        ),
    ],
)
def test_doctor_finds_problems(env: dict[str, str], words: str) -> None:
    if "CONFIG_HZ" in words and kernel_ticks() >= 1000:
        pytest.skip("this kernel's ticks are fast enough")
    result = conprof("doctor", check=False, **env)
    assert result.returncode == 1
    assert words in result.stdout


def test_doctor_and_a_socket_that_may_not_be_opened(tmp_path: Path) -> None:
    if not hasattr(os, "geteuid") or os.geteuid() == 0:
        pytest.skip("root may open everything")
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        path.chmod(0)
        result = conprof("doctor", check=False, BLACKFIRE_AGENT_SOCKET=f"unix://{path}")
    assert "may not open it" in result.stdout
