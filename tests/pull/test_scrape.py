"""Real servers over loopback, read by the real pprof tool and by the rules of Parca and Alloy."""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.check_scrape import check_scrape
from support.check_valid import check_directory
from support.pprof_tool import get_tool, run_tool
from support.process import start_command

from conprof_core import EngineUnavailableError
from conprof_core._engine import choose
from conprof_core._limits import MAX_READERS
from pull.serving import Target, serving

KINDS = ("flask", "starlette", "django", "django-asgi")
ROUTES = {
    "flask": "/burn/<int:milliseconds>",
    "starlette": "/burn/{milliseconds}",
    "django": "/burn/<int:n>",
    "django-asgi": "/burn/<int:n>",
}


@pytest.fixture(scope="module")
def tool() -> str:
    """The path of google/pprof."""
    return get_tool()


@pytest.fixture(scope="module", params=KINDS)
def served(request: pytest.FixtureRequest) -> str:
    """A framework and its server."""
    return str(request.param)


@pytest.fixture(scope="module")
def target(served: str) -> Iterator[Target]:
    """One that runs the native engine, with traffic on it."""
    try:
        choose("native")
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    with serving(served, CONPROF_ENGINE="native") as running:
        with traffic(running):
            yield running


class traffic:  # noqa: N801 - reads as a verb at the call site
    """Requests one after the other, until the block ends."""

    def __init__(self, target: Target, path: str = "/burn/30") -> None:
        self._target, self._path = target, path
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ended.is_set():
            assert self._target.get(self._path).status == 200
            assert self._target.get("/allocate/200").status == 200

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def test_scrapers_take_every_profile(target: Target, served: str) -> None:
    cpu = check_scrape(target.pprof("profile?seconds=2"), is_delta=True)
    assert [kind.type for kind in cpu.sample_types] == ["samples", "cpu"]
    assert cpu.duration_nanos >= 2e9
    assert cpu.by_function("cpu")["burn"] > 0
    assert ROUTES[served] in cpu.by_label("http.route", "cpu")
    assert all("pprof" not in route for route in cpu.by_label("http.route", "cpu"))
    wall = check_scrape(target.pprof("wall?seconds=1"), is_delta=True)
    assert wall.total("wall") >= 1e9
    block = check_scrape(target.pprof("block?seconds=1"), is_delta=True)
    assert [(kind.type, kind.unit) for kind in block.sample_types] == [("delay", "nanoseconds")]
    assert block.by_function("delay")["wait_for_the_lock"] == pytest.approx(1e9, rel=0.3)
    first = check_scrape(target.pprof("allocs"), is_delta=False)
    assert [kind.type for kind in first.sample_types] == [
        "alloc_objects",
        "alloc_space",
        "inuse_objects",
        "inuse_space",
    ]
    assert (first.default_sample_type, first.period) == ("alloc_space", 16384)
    assert first.by_function("alloc_space")["allocate"] > 0
    second = check_scrape(target.pprof("heap"), is_delta=False)
    assert second.default_sample_type == "inuse_space"
    assert second.by_function("inuse_space")["allocate"] > 0
    # Alloy subtracts one scrape from the next, stack by stack.
    sums = [
        {
            (sample.frames, tuple(sorted(sample.labels.items()))): sample.values[:2]
            for sample in profile.samples
        }
        for profile in (first, second)
    ]
    for key, (objects, space) in sums[0].items():
        if objects or space:
            now = sums[1][key]
            assert now[0] >= objects
            assert now[1] >= space
    delta = check_scrape(target.pprof("heap?seconds=1"), is_delta=True)
    assert 0 < delta.total("alloc_space") < second.total("alloc_space")
    tasks = check_scrape(target.pprof("goroutine"), is_delta=False)
    assert tasks.total("goroutine") >= 1
    check_scrape(target.pprof("goroutine?seconds=0.2"), is_delta=True)


def test_the_real_tool_reads_every_endpoint(target: Target, tool: str, tmp_path: Path) -> None:
    for path, kind, shows in (
        ("profile?seconds=1", "cpu", "burn"),
        ("wall?seconds=1", "wall", ""),
        ("block?seconds=1", "delay", "wait_for_the_lock"),
        ("heap", "inuse_space", "allocate"),
        ("allocs", "alloc_space", "allocate"),
        ("allocs?seconds=1", "alloc_space", ""),
        ("goroutine", "goroutine", ""),
    ):
        url = f"{target.url}/debug/pprof/{path}"
        top = run_tool(tool, tmp_path, "-top", "-nodecount=999", "-nodefraction=0", url).stdout
        assert re.search(rf"^Type: {kind}$", top, re.MULTILINE), top
        assert re.search(rf"^process {target.process.pid}$", top, re.MULTILINE), top
        assert shows in top
    refused = run_tool(tool, tmp_path, "-top", f"{target.url}/debug/pprof/mutex", check=False)
    assert refused.returncode != 0
    assert "Unknown profile" in refused.stderr, "the tool prints what we say"


def test_seconds_can_be_told_as_the_tool_tells_them(
    target: Target, tool: str, tmp_path: Path
) -> None:
    url = f"{target.url}/debug/pprof/profile"
    top = run_tool(tool, tmp_path, "-seconds=1", "-top", url).stdout
    assert re.search(r"^Duration: [1-9]", top, re.MULTILINE), top


def test_texts_for_people(target: Target) -> None:
    page = target.pprof("")
    assert page.headers["content-type"].startswith("text/html")
    assert 'href="profile?seconds=10"' in page.text
    moved = target.get("/debug/pprof")
    assert (moved.status, moved.headers["location"]) == (301, "pprof/")
    groups = target.pprof("goroutine?debug=1").text
    assert groups.startswith("goroutine profile: total ")
    each = target.pprof("goroutine?debug=2").text
    # Under asyncio a thread of ours takes it, which is not shown: there nothing need be running.
    assert re.match(r"goroutine 1 \[[\w /]+\]:\n", each)
    heap = target.pprof("heap?debug=1")
    assert heap.headers["content-type"] == "text/plain; charset=utf-8"
    assert re.match(r"heap profile: \d+: \d+ \[\d+: \d+\] @ heap/32768\n", heap.text)
    arguments = target.pprof("cmdline").text.split("\0")
    assert any(argument.endswith("target.py") for argument in arguments)
    assert target.pprof("symbol").text == "num_symbols: 0\n"
    assert target.get("/debug/pprof/symbol", method="POST").text == "num_symbols: 0\n"


def test_what_cannot_be_had_is_said_as_go_says_it(target: Target) -> None:
    for path, status in (
        ("mutex", 404),
        ("threadcreate", 404),
        ("nothing/at/all", 404),
        ("profile?seconds=0", 400),
        ("profile?seconds=-1", 400),
        ("profile?seconds=121", 400),
        ("profile?seconds=nan", 400),
        ("heap?seconds=soon", 400),
        ("heap?debug=7", 400),
        ("goroutine?debug=1&seconds=1", 400),
        ("heap?" + "&".join(f"a{number}=1" for number in range(30)), 400),
    ):
        answer = target.pprof(path)
        assert answer.status == status, (path, answer)
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["x-go-pprof"] == "1"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.body.endswith(b"\n")
    assert target.pprof("mutex").text == "Unknown profile\n"
    assert target.get("/debug/pprof/heap", method="DELETE").status == 405
    assert target.get("/debug/pprofx").status == 404
    assert "x-go-pprof" not in target.get("/debug/pprofx").headers, "the application's own"


@pytest.mark.parametrize("kind", ["flask", "starlette"])
def test_the_portable_engine_is_read_too(kind: str) -> None:
    with serving(kind, CONPROF_ENGINE="portable") as target, traffic(target):
        cpu = check_scrape(target.pprof("profile?seconds=2"), is_delta=True)
        assert cpu.by_function("cpu")["burn"] > 0
        check_scrape(target.pprof("goroutine"), is_delta=False)
        for name in ("heap", "allocs", "wall"):
            answer = target.pprof(name)
            assert answer.status == 404
            assert "the portable engine" in answer.text
        assert "off: " in target.pprof("").text


def test_live_memory_of_the_portable_engine() -> None:
    environment = {"CONPROF_ENGINE": "portable", "CONPROF_HEAP_TRACEMALLOC": "1"}
    with serving("flask", **environment) as target:
        assert target.get("/allocate/2000").status == 200
        heap = check_scrape(target.pprof("heap"), is_delta=False)
        assert 1.8e6 < heap.total("inuse_space") < 2e7
        assert target.pprof("allocs").status == 404


def test_readers_at_once_and_uploads_all_get_what_is_theirs(engine: str, tmp_path: Path) -> None:
    environment = {
        "CONPROF_ENGINE": engine,
        "CONPROF_PROFILE_TYPES": "cpu",
        "CONPROF_EXPORT_TO": tmp_path.as_uri(),
        "BLACKFIRE_CONPROF_PERIOD": "1.5",
    }
    answers = {}
    began = time.monotonic()
    with serving("flask", **environment) as target:
        before_ns = int(target.get("/burn/1").body)

        def read(name: str, seconds: float) -> None:
            answers[name] = target.pprof(f"profile?seconds={seconds}")

        with traffic(target):
            readers = [
                threading.Thread(target=read, args=(f"reader {number}", 1 + 0.4 * number))
                for number in range(6)
            ]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()
        used_ns = target.stop()
        lasted_s = time.monotonic() - began
    assert len(answers) == 6
    for name, answer in answers.items():
        profile = check_scrape(answer, is_delta=True)
        assert profile.duration_nanos >= (1 + 0.4 * int(name[-1])) * 1e9
        assert 0 < profile.total("cpu") < used_ns
        assert profile.by_function("cpu")["burn"] > 0
    uploaded = check_directory(tmp_path)
    assert len(uploaded) > 1, "premise: windows ended while there were readers"
    assert len(uploaded) <= lasted_s / 1.5 + 2, "readers make no uploads"
    total = sum(profile.total("cpu") for profile in uploaded)
    assert used_ns - before_ns == pytest.approx(total, rel=0.15, abs=1e8)


def test_gunicorn_with_threads_and_without(tmp_path: Path) -> None:
    pytest.importorskip("gunicorn")
    for threads in (1, 4):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}"]
        command += ["--threads", str(threads), "--no-control-socket", "target:flask_app()"]
        environment = {
            "CONPROF_PULL": "1",
            "CONPROF_EXPORT_TO": "none:",
            "PYTHONPATH": os.fspath(Path(__file__).parent),
        }
        with start_command(command, env=environment) as process:
            target = Target(process, port)
            deadline = time.monotonic() + 30
            while True:
                try:
                    target.get("/burn/1")
                    break
                except OSError:
                    assert time.monotonic() < deadline, process.stderr
                    time.sleep(0.05)
            answer = target.pprof("profile?seconds=0.5")
            if threads == 1:
                assert answer.status == 503
                assert "--threads" in answer.text
            else:
                check_scrape(answer, is_delta=True)
            check_scrape(target.pprof("goroutine"), is_delta=False)


@pytest.mark.parametrize("kind", ["starlette", "django-asgi"])
def test_who_hangs_up_frees_the_place(kind: str) -> None:
    short = "profile?seconds=0.1"
    with serving(kind) as target:
        with ExitStack() as connections:
            # More than there are places: the question takes one for a moment, and a profiler that
            # is busy refuses some.
            for number in range(8 * MAX_READERS):
                if number >= MAX_READERS and target.pprof(short).status == 503:
                    break
                connection = socket.create_connection(("127.0.0.1", target.port), 30)
                connections.enter_context(connection)
                connection.sendall(
                    b"GET /debug/pprof/profile?seconds=120 HTTP/1.1\r\nHost: localhost\r\n\r\n"
                )
            assert wait_for_status(target, short, 503), "premise: every place is taken"
        assert wait_for_status(target, short, 200)


def wait_for_status(target: Target, path: str, status: int) -> bool:
    """Ask until the answer has a status, or it takes too long."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if target.pprof(path).status == status:
            return True
    return False
