"""What the program's signals and sandboxes do to what is conprof's own."""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from support.process import run_script

import conprof_core as conprof
from conprof_core import _threads
from conprof_core._engine import portable

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and signals of Linux")


@linux
@pytest.mark.parametrize("engine", ["native", "portable"])
def test_program_takes_its_own_signals(request: pytest.FixtureRequest, engine: str) -> None:
    """Blocked in each thread of the program, a signal waits for whoever reads it.

    A thread of ours that let it in would be who the kernel gives it to, and the process would end.
    """
    if engine == "native":
        request.getfixturevalue("native_engine")
    result = run_script(
        f"""
        import os, signal, sys, tempfile, threading
        import conprof_core as conprof

        where = "file://" + tempfile.mkdtemp()
        conprof.start(export_to=where, engine={engine!r}, period=0.2, cpu_duration=0.2)
        waited = threading.Event().wait(0.3)  # until the threads of a first window are there
        signals = {{signal.SIGUSR1, signal.SIGALRM, signal.SIGRTMIN + 3}}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        for number in signals:
            os.kill(os.getpid(), number)
        waited = threading.Event().wait(0.1)
        print(sorted(int(number) for number in signal.sigpending()))
        print([int(signal.sigwait(signals)) for _ in signals])
        conprof.stop()
        """
    ).check()
    expected = [int(signal.SIGUSR1), int(signal.SIGALRM), int(signal.SIGRTMIN) + 3]
    assert result.stdout.splitlines() == [str(expected), str(expected)]


@linux
def test_starting_one_leaves_the_mask_alone() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        during = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        masks: list[set[int]] = []
        thread = _threads.Thread(
            lambda: masks.append({int(n) for n in signal.pthread_sigmask(signal.SIG_BLOCK, ())})
        )
        thread.start()
        assert thread.join(10)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == during
        assert {signal.SIGTERM, signal.SIGUSR1} <= masks[0]
        assert not {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT} & masks[0]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_end_is_told_where_a_sandbox_refuses_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever joins the thread would wait for as long as it may: ten seconds in stop()."""

    def refused() -> int:
        raise PermissionError

    done = threading.Event()
    thread = _threads.Thread(done.wait)
    thread.start()
    with monkeypatch.context() as patch:
        patch.setattr(time, "thread_time_ns", refused)
        done.set()
        assert thread.join(10)


def test_window_of_a_sandbox_that_does_not_tell_the_host(tmp_path: Path) -> None:
    run_script(
        f"""
        import os
        def refused():
            raise PermissionError
        os.uname = refused
        import conprof_core as conprof
        conprof.start(export_to="file://{tmp_path}")
        sum(range(3_000_000))
        conprof.stop()
        """
    ).check()
    assert list(tmp_path.glob("*.pb.gz"))


def test_start_without_memory_leaves_the_program_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(portable.PortableEngine, "start", refused)
    conprof.start(export_to="none:", engine="portable")
    assert not conprof.stats()["running"]
    assert "not profiling this process: out of memory" in caplog.text
