"""The log: where lines go, which are written, and what the import of the package costs."""

from __future__ import annotations

from pathlib import Path

from support.process import run_script

FAIL = """
import conprof_core as conprof
conprof.start(agent_socket="unix:///nowhere/agent.sock")
conprof.flush(1)
conprof.stop()
"""


def test_errors_go_to_stderr_by_default() -> None:
    (line,) = run_script(FAIL).stderr.splitlines()
    assert "ERROR conprof.export [pid" in line
    assert "Blackfire Agent at unix:///nowhere/agent.sock does not take profiles" in line


def test_a_configured_program_gets_them_through_logging() -> None:
    setup = "import logging; logging.basicConfig(format='APP %(name)s %(message)s')\n"
    (line,) = run_script(setup + FAIL).stderr.splitlines()
    assert line.startswith("APP conprof.export ")


def test_log_file_and_level(tmp_path: Path) -> None:
    path = tmp_path / "conprof.log"
    env = {"BLACKFIRE_LOG_FILE": str(path), "BLACKFIRE_LOG_LEVEL": "3"}
    assert not run_script(FAIL, env=env).stderr
    text = path.read_text()
    assert "INFO conprof.profiler" in text
    assert "ERROR conprof.export" in text


def test_a_log_file_that_cannot_be_written(tmp_path: Path) -> None:
    env = {"BLACKFIRE_LOG_FILE": str(tmp_path / "no" / "such" / "file")}
    lines = run_script(FAIL, env=env).stderr.splitlines()
    assert "the log goes to stderr" in lines[0]
    assert len(lines) == 2


def test_a_level_of_the_program_is_left_alone() -> None:
    setup = "import logging; logging.getLogger('conprof').setLevel(100)\n"
    assert not run_script(setup + FAIL).stderr


def test_import_and_start_load_nothing_heavy(tmp_path: Path) -> None:
    source = f"""
import sys
import conprof_core
conprof_core.start(export_to={tmp_path.as_uri()!r})
heavy = {{"requests", "urllib3", "asyncio", "email", "http", "ssl", "ctypes", "json"}}
heavy |= {{"subprocess", "platform", "uuid", "random", "google", "multiprocessing"}}
print(sorted(heavy & set(sys.modules)))
"""
    assert run_script(source).stdout == "[]\n"


def test_public_names_are_sorted_and_all_there() -> None:
    import conprof_core

    names = conprof_core.__all__
    assert all(hasattr(conprof_core, name) for name in names)
    assert len(set(names)) == len(names)
