"""Outages of every kind, end to end: within the bounds nothing is lost, order and times stay."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from core.conftest import burn
from support.fake_agent import FakeAgent, Fault, Upload, answer

from conprof_core import Config, Profiler
from conprof_core._limits import MAX_QUEUED_WINDOWS
from conprof_core.exporters import _transport
from conprof_core.exporters import queue as queue_module

OUTAGE_S = 600
PERIOD_S = 0.25
FLUSH_S = 40.0


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage of minutes in seconds: windows and waits are shorter by the same factor."""
    monkeypatch.setattr(queue_module, "BACKOFF_FIRST_S", 0.02)
    monkeypatch.setattr(queue_module, "BACKOFF_LONGEST_S", 0.3)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key."""
    path = tmp_path_factory.mktemp("tls") / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-keyout", f"{path}.key", "-out", str(path), "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return path


@pytest.fixture
def tls_agent(certificate: Path) -> Iterator[FakeAgent]:
    """A receiver behind TLS, with a certificate that nobody knows."""
    with FakeAgent(tls=certificate) as running:
        yield running


class Outage:
    """A run through an outage of several windows.

    Attributes:
        measured: nanoseconds of CPU time in each window, as the profiler itself saw them.
        uploads: sequence → upload, each window once, in order of arrival.
        error: what the profiler said of the outage.
    """

    def __init__(
        self, agent: FakeAgent, begin: Callable[[], object], end: Callable[[], object]
    ) -> None:
        self.measured: list[int] = []
        begin()
        profiler = Profiler(agent_socket=agent.url, period=PERIOD_S)
        profiler.observe(lambda rows: self.measured.append(sum(row.cpu_ns for row in rows)))
        profiler.start()
        try:
            deadline = time.monotonic() + 60
            while (during := profiler.stats())["queued"] < 5:
                burn(0.02)
                assert time.monotonic() < deadline, during
            assert during["exported"] == 0, "premise: nothing went through"
            (exporter,) = during["exporters"]
            assert exporter["available"] is False
            self.error: str = during["last_error"]
            end()
            deadline = time.monotonic() + FLUSH_S
            while not profiler.flush(5):
                assert time.monotonic() < deadline, profiler.stats()
            # Stop between two turns, not while the receiver starts a thread for one of them.
            agent.wait_for_requests(len(agent.uploads) + 1)
            time.sleep(0.05)
        finally:
            profiler.stop()
        # An upload that was taken while its answer came too late is sent twice, as it must be.
        first: dict[int, Upload] = {}
        for upload in agent.accepted:
            first.setdefault(int(upload.tags["profile_seq"]), upload)
        self.uploads = first

    def check_nothing_is_lost(self) -> None:
        """Every window came, in order, at its own time, with all of its CPU time."""
        assert self.error
        assert list(self.uploads) == list(range(len(self.measured)))
        received = [upload.profile.total("cpu-time") for upload in self.uploads.values()]
        assert received == self.measured
        events = [upload.event for upload in self.uploads.values()]
        assert all(event["start"] < event["end"] for event in events)
        starts = [event["start"] for event in events]
        assert starts == sorted(set(starts)), "a window keeps its own time"


FAULTS = {
    "503": answer(503),
    "429 with Retry-After": answer(429, Retry_After="600"),
    "half-open connection": Fault("hang", seconds=60),
    "slow-loris answer": Fault("slow", seconds=0.05),
    "reset": Fault("reset", after=10),
}


@pytest.mark.parametrize("name", FAULTS)
def test_an_agent_that_misbehaves_loses_nothing(engine: str, agent: FakeAgent, name: str) -> None:
    def begin() -> None:
        agent.always = FAULTS[name]

    def end() -> None:
        agent.always = None

    Outage(agent, begin, end).check_nothing_is_lost()


def test_an_agent_that_is_gone_loses_nothing(engine: str, agent: FakeAgent) -> None:
    Outage(agent, agent.refuse, agent.listen).check_nothing_is_lost()


def test_a_name_that_cannot_be_resolved_loses_nothing(
    agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    resolve = _transport._getaddrinfo
    outage = Outage(
        agent,
        lambda: monkeypatch.setattr(_transport, "_getaddrinfo", fail),
        lambda: monkeypatch.setattr(_transport, "_getaddrinfo", resolve),
    )
    outage.check_nothing_is_lost()
    assert "name resolution" in outage.error


def test_a_certificate_that_is_not_known_loses_nothing(
    tls_agent: FakeAgent, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    outage = Outage(
        tls_agent,
        lambda: monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False),
        lambda: monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate)),
    )
    outage.check_nothing_is_lost()
    assert "certificate" in outage.error.lower()


def test_ten_minutes_fit_into_memory() -> None:
    assert Config().period * MAX_QUEUED_WINDOWS >= OUTAGE_S
