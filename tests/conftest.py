"""Around every test: nothing of the profiler is left behind, and no internal error is swallowed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fake_agent import FakeAgent

# For example_apps; at the end, so that the installed packages are what is tested.
sys.path.append(str(Path(__file__).resolve().parents[1]))

LEFTOVER_WAIT_S = 5.0

# What the environment may say: which engine to test, and that it is built with a sanitizer.
OF_THE_TESTS = ("CONPROF_ENGINE", "CONPROF_UNDER_SANITIZER")

# A job in the background of a shell without job control ignores SIGINT, and so would every server
# that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no variable of the outer environment steer the profiler, but for the engine."""
    for key in list(os.environ):
        steers = key.startswith(("CONPROF_", "BLACKFIRE_", "PLATFORM_", "OTEL_"))
        if steers and key not in OF_THE_TESTS:
            monkeypatch.delenv(key)


@pytest.fixture(autouse=True)
def clean_state(clean_environment: None) -> Iterator[None]:
    """Check before and after the test that no profiler, thread, timer or handler is left."""
    import conprof_core
    from conprof_core import _log
    from conprof_core._labels import context_var

    assert not conprof_core.is_running(), "an earlier test left a profiler running"
    assert context_var.get() is None, "an earlier test left its labels"
    before = _traces()
    _log.forget_internal_errors()
    yield
    running = conprof_core.is_running()
    if running:
        conprof_core.stop()
    labelled, _ = context_var.get() is not None, context_var.set(None)
    assert not running, "the test left a profiler running"
    deadline = time.monotonic() + LEFTOVER_WAIT_S
    while (left := _leftovers(before)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left, f"left behind: {left}"
    errors = dict(_log.internal_errors)
    _log.forget_internal_errors()
    assert not labelled, "the test left its labels"
    assert not errors, f"internal errors: {errors}; the last: {_log.last_internal_error}"


@pytest.fixture
def swallow_internal_errors() -> Iterator[None]:
    """Let internal errors be swallowed and counted, for the tests of just that."""
    from conprof_core import _log

    before, _log.raise_internal_errors = _log.raise_internal_errors, False
    yield
    _log.raise_internal_errors = before
    _log.forget_internal_errors()


@pytest.fixture
def native_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine that measures memory and waits, which CONPROF_ENGINE demands during the test."""
    from conprof_core import EngineUnavailableError
    from conprof_core._engine import choose

    try:
        choose("native")
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("CONPROF_ENGINE", "native")


@pytest.fixture
def agent() -> Iterator[FakeAgent]:
    """A receiver on a TCP port of the loopback."""
    with FakeAgent() as running:
        yield running


@pytest.fixture
def unix_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeAgent]:
    """A receiver on a unix socket; its path is short enough for every system."""
    with FakeAgent(unix=tmp_path_factory.mktemp("s") / "agent.sock") as running:
        yield running


def _traces() -> dict[str, object]:
    return {
        "timers": _posix_timers(),
        "handlers": _handlers(),
        "bootstrap": threading.Thread.__dict__["_bootstrap"],
        "threads": {thread.ident for thread in threading.enumerate()},
    }


def _leftovers(before: dict[str, object]) -> dict[str, object]:
    """Return what is there now and was not before; empty is clean."""
    now = _traces()
    left: dict[str, object] = {}
    if now["timers"] != before["timers"]:
        left["POSIX timers"] = (before["timers"], now["timers"])
    if now["handlers"] != before["handlers"]:
        left["Python signal handlers"] = (before["handlers"], now["handlers"])
    if now["bootstrap"] is not before["bootstrap"]:
        left["threading.Thread._bootstrap"] = now["bootstrap"]
    threads = [thread.name for thread in threading.enumerate() if "conprof" in thread.name]
    if threads:
        left["threads"] = threads
    return left


def _posix_timers() -> int:
    """Count this process's POSIX timers: a line ``ID:`` each."""
    try:
        text = Path("/proc/self/timers").read_text()
    except OSError:
        return 0
    return sum(line.startswith("ID:") for line in text.splitlines())


def _handlers() -> dict[int, object]:
    # SIGALRM is pytest-timeout's, which takes its handler away as soon as a test has failed.
    numbers = signal.valid_signals() - {signal.SIGALRM}
    return {number: signal.getsignal(number) for number in numbers}
