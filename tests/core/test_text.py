"""Text that no UTF-8 can hold, from everywhere it may come from: replaced, and nothing refused."""

from __future__ import annotations

import gzip
import sys
import threading
import time
from pathlib import Path

import pytest
from support.check_valid import check_directory
from support.process import run_script

import conprof_core as conprof
from conprof_core import request_scope
from conprof_core._text import valid_text
from conprof_core.testing import capture

BAD = b"caf\xe9".decode("utf-8", "surrogateescape")
GOOD = "caf�"


def burn(cpu_s: float = 0.1) -> None:
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(200))


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (BAD, GOOD),
        ("plain", "plain"),
        ("größe 漢字 🐍", "größe 漢字 🐍"),
        ("\ud83d\udc0d", "��"),
        ("", ""),
    ],
)
def test_valid_text(text: str, valid: str) -> None:
    assert valid_text(text) == valid


def test_labels_without_a_profiler() -> None:
    with conprof.labels(job=BAD), conprof.labels({BAD: 1}):
        pass
    with request_scope({"http.route": BAD}) as scope:
        scope.bind({"job": BAD})


def test_labels(engine: str) -> None:
    with capture(cpu_profile_rate=1000) as captured:
        with conprof.labels(job=BAD):
            burn()
        with request_scope({"http.route": f"/{BAD}"}):
            burn()
    assert captured.cpu_ns(job=GOOD) > 0.05e9
    assert captured.cpu_ns(**{"http.route": f"/{GOOD}"}) > 0.05e9


def test_threads_that_are_there_and_threads_that_come(engine: str) -> None:
    go = threading.Event()

    def work() -> None:
        go.wait()
        burn()

    first = threading.Thread(target=work, name=f"first {BAD}")
    first.start()
    with capture(cpu_profile_rate=1000) as captured:
        go.set()
        second = threading.Thread(target=work, name=f"second {BAD}")
        second.start()
        first.join()
        second.join()
    (profile,) = captured.windows[0].profiles
    written = gzip.decompress(profile.pprof_gz)
    assert f"first {GOOD}".encode() in written
    assert f"second {GOOD}".encode() in written


def test_names_of_functions_and_files(engine: str) -> None:
    space = {"burn": burn}
    exec(compile("def work():\n    burn()\n", f"/tmp/{BAD}.py", "exec"), space)
    work = space["work"]
    work.__code__ = work.__code__.replace(co_name=BAD, co_qualname=BAD)  # type: ignore[attr-defined]
    with capture(cpu_profile_rate=1000) as captured:
        work()
    (profile,) = captured.windows[0].profiles
    written = gzip.decompress(profile.pprof_gz)
    assert f"/tmp/{GOOD}.py".encode() in written
    assert captured.cpu_ns("burn") > 0.05e9


@pytest.mark.skipif(sys.platform != "linux", reason="an environment of bytes")
def test_what_the_environment_says(engine: str, tmp_path: Path) -> None:
    """The name of the application and its labels come with every window."""
    result = run_script(
        """
import os, sys
bad = b"caf\\xe9"
os.environb[b"BLACKFIRE_CONPROF_APP_NAME"] = bad
os.environb[b"CONPROF_LABELS"] = b"city=" + bad
import conprof_core as conprof, time
conprof.start()
until = time.thread_time() + 0.2
with conprof.labels(city=os.environ["CONPROF_LABELS"]):
    while time.thread_time() < until:
        sum(range(200))
conprof.stop()
assert not conprof.stats()["internal_errors"], conprof.stats()
""",
        env={"CONPROF_EXPORT_TO": tmp_path.as_uri(), "CONPROF_ENGINE": engine},
    )
    assert "internal error" not in result.stderr
    assert check_directory(tmp_path)
