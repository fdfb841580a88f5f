"""The control file: every process that names it follows, and nothing in it can do harm."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.process import start_script

import conprof_core as conprof
from conprof_core import testing
from conprof_core._control_file import ControlFile, parse_text
from conprof_core._options import ProfileType

from .conftest import burn


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("_control_file", "_session"):
        monkeypatch.setattr(f"conprof_core.{module}.CONTROL_POLL_S", 0.1)


def write(path: Path, text: str) -> None:
    """Replace the file as tools do that want no reader to see half of it."""
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def control() -> dict[str, object]:
    state: dict[str, object] = conprof.stats()["control"]
    return state


def start(path: Path, **options: object) -> conprof.Profiler:
    profiler = conprof.Profiler(
        exporters=[testing.MemoryExporter()],
        control_file=str(path),
        **options,  # type: ignore[arg-type]
    )
    profiler.start()
    return profiler


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ('{"enabled": false}', {"enabled": False}),
        ('{"disabled": true, "period": 5}', {"enabled": False, "period": 5.0}),
        ('{"profile_types": ["cpu", "wall"]}', {"profile_types": (ProfileType.CPU, "wall")}),
        ('{"cpu_profile_rate": null}', {}),
        ("# nothing\n", {}),
        ("enabled = no  # at night\n\nperiod=50", {"enabled": False, "period": 50.0}),
        ("profile_types = cpu, heap", {"profile_types": ("cpu", "heap")}),
    ],
)
def test_what_a_file_says(text: str, changes: dict[str, object]) -> None:
    assert parse_text(text) == changes


BAD = [
    "{",
    '{"enabled": "perhaps"}',
    '{"cpu_profile_rate": {}}',
    '{"labels": {}}',
    "enabled",
    "= 1",
    '{"a": ' * 5_000,
    "cpu_profile_rate = 1e999",
    "\x00\x01",
]


@pytest.mark.parametrize("text", BAD)
def test_bad_content_changes_nothing_and_is_said_once(
    engine: str, tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "control"
    write(path, "cpu_profile_rate = 50")
    profiler = start(path)
    assert control()["cpu_profile_rate"] == 50
    write(path, text)
    wait_for(lambda: control()["file"]["trouble"], "the trouble shows")  # type: ignore[index]
    time.sleep(0.3)  # several looks
    assert control()["cpu_profile_rate"] == 50
    assert len([line for line in caplog.messages if "is not followed" in line]) == 1
    write(path, "cpu_profile_rate = 51")
    wait_for(lambda: control()["cpu_profile_rate"] == 51, "it is followed again")
    profiler.stop()
    assert len([line for line in caplog.messages if "followed again" in line]) == 1


def missing(path: Path) -> None:
    path.unlink()


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def empty(path: Path) -> None:
    write(path, "")


def huge(path: Path) -> None:
    write(path, "#" * 100_000)


def binary(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")


def unreadable(path: Path) -> None:
    path.chmod(0)


SPOILERS = [missing, directory, fifo, empty, huge, binary]
if sys.platform != "win32" and os.getuid() != 0:  # root reads everything
    SPOILERS.append(unreadable)


@pytest.mark.skipif(sys.platform == "win32", reason="no FIFOs")
@pytest.mark.parametrize("spoil", SPOILERS)
def test_a_file_that_cannot_be_read_changes_nothing_and_is_said_once(
    tmp_path: Path, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "control"
    write(path, '{"enabled": false}')
    profiler = start(path)
    assert control()["enabled"] is False
    spoil(path)
    wait_for(lambda: control()["file"]["trouble"], "the trouble shows")  # type: ignore[index]
    time.sleep(0.3)
    assert control()["enabled"] is False
    assert len([line for line in caplog.messages if "is not followed" in line]) == 1
    profiler.stop()


def test_it_is_followed_off_and_on_and_what_it_no_longer_says_is_as_before(
    engine: str, tmp_path: Path
) -> None:
    path = tmp_path / "control"
    profiler = start(path, cpu_profile_rate=70, period=3600)
    assert control()["enabled"] is True, "there is no file yet"
    write(path, '{"enabled": false, "cpu_profile_rate": 20}')
    wait_for(lambda: control()["enabled"] is False, "off")
    state = control()
    assert state["cpu_profile_rate"] == 20
    assert state["sources"]["enabled"] == f"file {path}"  # type: ignore[index]
    samples = conprof.stats()["samples"]
    burn(0.2)
    assert conprof.stats()["samples"] == samples
    write(path, "{}")
    wait_for(lambda: control()["enabled"] is True, "on again, also seen while off")
    assert control()["cpu_profile_rate"] == 70
    assert control()["sources"]["cpu_profile_rate"] == "argument"  # type: ignore[index]
    burn(0.2)
    assert conprof.flush()
    assert conprof.stats()["samples"] > samples
    profiler.stop()


def test_what_the_program_changes_stands_until_the_file_says_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "control"
    write(path, "cpu_profile_rate = 50")
    profiler = start(path)
    conprof.reconfigure(cpu_profile_rate=60)
    time.sleep(0.4)  # several looks at an unchanged file
    assert control()["cpu_profile_rate"] == 60
    write(path, "cpu_profile_rate = 50\nperiod = 10")
    wait_for(lambda: control()["cpu_profile_rate"] == 50, "the file says something new")
    profiler.stop()


def test_a_file_written_twice_in_one_tick_of_the_clock(tmp_path: Path) -> None:
    path = tmp_path / "control"
    path.write_text("cpu_profile_rate = 50")
    stamp = path.stat()
    file = ControlFile(str(path))
    assert file.look() == {"cpu_profile_rate": 50}
    path.write_text("cpu_profile_rate = 51")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert path.stat().st_mtime_ns == stamp.st_mtime_ns, "the premise: the same stamp and size"
    assert file.look() == {"cpu_profile_rate": 51}


SERVICE = r"""
import os, sys, time
import conprof_core as conprof
from conprof_core import _control_file, _session, testing
_control_file.CONTROL_POLL_S = _session.CONTROL_POLL_S = 0.1
conprof.Profiler(exporters=[testing.MemoryExporter()], control_file=sys.argv[1]).start()

def burn(cpu_s):
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(500))

def follow(who):
    seen = None
    while True:
        enabled = conprof.stats()["enabled"]
        if enabled != seen:
            seen = enabled
            os.write(1, f"{who} {'on' if seen else 'off'}\n".encode())
        if conprof.stats()["rate_hz"] == 999:
            break
        burn(0.002)
        time.sleep(0.01)
    errors = conprof.stats()["internal_errors"]
    assert not errors, errors
    conprof.stop()

children = []
for number in range(2):
    pid = os.fork()
    if pid == 0:
        follow(f"child{number}")
        os._exit(0)
    children.append(pid)
follow("parent")
for pid in children:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("first", [True, False])
def test_all_processes_of_a_service_follow(engine: str, tmp_path: Path, first: bool) -> None:
    path = tmp_path / "control"
    write(path, json.dumps({"enabled": first}))
    everyone = ("parent", "child0", "child1")
    words = ("on", "off") if first else ("off", "on")
    with start_script(SERVICE, str(path)) as service:
        for who in everyone:
            service.wait_for_line(f"{who} {words[0]}")
        write(path, json.dumps({"enabled": not first}))
        for who in everyone:
            service.wait_for_line(f"{who} {words[1]}")
        write(path, json.dumps({"cpu_profile_rate": 999}))
        service.finish().check()
