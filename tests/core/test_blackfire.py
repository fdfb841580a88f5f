"""The Blackfire exporter against a receiver that plays the Agent, on TCP, unix socket and TLS."""

from __future__ import annotations

import errno
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import pytest
from support.fake_agent import FakeAgent, Fault, answer

from conprof_core._engine import Row
from conprof_core._pprof import encode_profile
from conprof_core._window import compressed
from conprof_core.exporters import (
    Destination,
    EncodedProfile,
    EncodedWindow,
    Outcome,
    Verdict,
    _transport,
    naming,
)
from conprof_core.exporters.blackfire import OLD_AGENT, BlackfireExporter, encode_tags

NOW_NS = 1_700_000_000_123_456_789


def make_profile(**changes: object) -> EncodedWindow:
    """Return a small profile."""
    rows = [Row((("f", "/app/f.py", 3, 1),), (("http.route", "/"),), "MainThread", 2, 20_000_000)]
    names = naming.blackfire()
    pprof = encode_profile(
        rows, names.shapes[0], names, start_ns=NOW_NS, end_ns=NOW_NS + 10**9, mapping_file="python"
    )
    window = EncodedWindow(
        profiles=(EncodedProfile("profile", compressed(pprof)),),
        start_ns=NOW_NS,
        end_ns=NOW_NS + 10**9,
        sequence=0,
        service="shop",
        tags={"service": "shop", "tier": "web"},
        counters={"truncated": 2},
        process_id=1,
        samples=2,
    )
    return window._replace(**changes)  # type: ignore[arg-type]


def exporter_to(url: str, **credentials: str) -> BlackfireExporter:
    return BlackfireExporter(Destination("blackfire:", naming.Measured(), url, **credentials))


@pytest.fixture(params=["tcp", "unix"])
def receiver(request: pytest.FixtureRequest) -> FakeAgent:
    """The same receiver on both kinds of socket."""
    fixture = {"tcp": "agent", "unix": "unix_agent"}[request.param]
    agent: FakeAgent = request.getfixturevalue(fixture)
    return agent


def test_upload_as_the_agent_expects_it(receiver: FakeAgent) -> None:
    outcome = exporter_to(receiver.url).export(make_profile(), 5)
    assert outcome == Outcome(Verdict.DELIVERED)
    (upload,) = receiver.wait_for(1)
    assert upload.path == "/profiling/v1/input"
    assert [part.name for part in upload.parts] == ["event", "profile.pprof"]
    assert [part.filename for part in upload.parts] == ["event.json", "profile.pprof"]
    assert upload.parts[0].content_type == "application/json"
    event = upload.event
    assert (event["start"], event["end"]) == (
        "2023-11-14T22:13:20.123456789Z",
        "2023-11-14T22:13:21.123456789Z",
    )
    assert (event["family"], event["version"]) == ("python", "4")
    assert event["attachments"] == ["profile.pprof"]
    assert upload.tags == {"service": "shop", "tier": "web"}
    assert upload.headers["dd-evp-origin"] == "conprof"
    assert upload.headers["user-agent"].startswith("conprof/")
    assert upload.headers["content-length"] == str(len(upload.body))
    assert upload.credentials is None
    profile = upload.profile
    assert [kind.type for kind in profile.sample_types] == ["cpu-time", "cpu-samples"]
    assert profile.by_label("trace endpoint") == {"/": 20_000_000}


def test_only_an_agent_of_ours_gets_types_that_blackfire_does_not_know(agent: FakeAgent) -> None:
    measured = naming.Measured(types=("cpu", "wall"))
    exporter = BlackfireExporter(Destination("blackfire:", measured, agent.url))
    agent.then(answer(200, b"{}"), answer(200, b'{"conprof_agent":"1"}'), answer(200))
    sent = []
    for _ in range(4):
        types = {kind for kind, _, _ in exporter.naming.shapes[0].sample_types}
        sent.append("loop_blocked" in types)
        assert exporter.export(make_profile(), 5) == Outcome(Verdict.DELIVERED)
    assert sent == [False, False, True, False]


def test_credentials_are_sent_when_both_are_known(agent: FakeAgent) -> None:
    exporter_to(agent.url, server_id="me", server_token="t:k").export(make_profile(), 5)
    exporter_to(agent.url, server_id="me").export(make_profile(), 5)
    first, second = agent.wait_for(2)
    assert first.credentials == ("me", "t:k")
    assert second.credentials is None


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"a": "1", "b": "x:y:z"}, "a:1,b:x:y:z"),
        ({"a": "1,2"}, "a:1_2"),
        ({"a": ""}, ""),
        ({"a": " : "}, ""),
        ({"a:b": "c:"}, "a_b:c"),
        ({"a": "x\ny\x00"}, "a:x_y_"),
        ({"a": "\udcff"}, "a:_"),
        ({"a": "y" * 500}, "a:" + "y" * 199 + "…"),
        ({"ключ": "é"}, "ключ:é"),
    ],
)
def test_tags_cannot_break_the_list(given: Mapping[str, str], sent: str) -> None:
    assert encode_tags(given) == sent


@pytest.mark.parametrize(
    ("status", "headers", "verdict", "counts", "retry_after", "words"),
    [
        (202, {}, Verdict.DELIVERED, False, None, ""),
        (404, {}, Verdict.REFUSED, False, None, OLD_AGENT),
        (301, {"Location": "/x"}, Verdict.REFUSED, False, None, "HTTP 301"),
        (400, {}, Verdict.REFUSED, False, None, "HTTP 400"),
        (401, {}, Verdict.REFUSED, False, None, "BLACKFIRE_SERVER_ID"),
        (413, {}, Verdict.REFUSED, False, None, "HTTP 413"),
        (408, {}, Verdict.RETRY, False, None, "HTTP 408"),
        (429, {"Retry-After": "7"}, Verdict.RETRY, False, 7.0, "HTTP 429"),
        (503, {"Retry-After": "nonsense"}, Verdict.RETRY, False, None, "HTTP 503"),
        (502, {}, Verdict.RETRY, False, None, "HTTP 502"),
        (500, {}, Verdict.RETRY, True, None, "HTTP 500"),
    ],
)
def test_answers(
    agent: FakeAgent,
    status: int,
    headers: dict[str, str],
    verdict: Verdict,
    counts: bool,
    retry_after: float | None,
    words: str,
) -> None:
    agent.then(Fault("status", status=status, headers=headers))
    outcome = exporter_to(agent.url).export(make_profile(), 5)
    assert outcome.verdict is verdict
    assert outcome.counts is counts
    assert outcome.retry_after_s == retry_after
    assert words in outcome.detail
    assert len(agent.uploads) == 1, "no redirect was followed"


def test_retry_after_as_a_date(agent: FakeAgent) -> None:
    at = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))
    agent.then(answer(429, Retry_After=at))
    outcome = exporter_to(agent.url).export(make_profile(), 5)
    assert outcome.retry_after_s is not None
    assert 50 < outcome.retry_after_s <= 100


def test_the_body_of_a_refusal_is_told_in_one_line(agent: FakeAgent) -> None:
    agent.then(answer(400, b"no\nsuch " + b"x" * 10_000))
    outcome = exporter_to(agent.url).export(make_profile(), 5)
    assert outcome.detail.startswith("HTTP 400 Bad Request: no such xxx")
    assert len(outcome.detail) < 300


@pytest.mark.parametrize(
    "fault",
    [Fault("hang", seconds=30), Fault("slow", seconds=0.05), Fault("reset", after=10)],
    ids=lambda fault: fault.kind,
)
def test_a_destination_that_misbehaves_costs_the_timeout_and_no_more(
    receiver: FakeAgent, fault: Fault
) -> None:
    if fault.kind == "reset" and receiver.url.startswith("unix"):
        pytest.skip("a unix socket has no RST")
    receiver.then(fault)
    began = time.monotonic()
    outcome = exporter_to(receiver.url).export(make_profile(), 0.5)
    assert outcome.verdict is Verdict.RETRY
    assert outcome.detail
    # An answer that trickles in at 20 bytes a second would take minutes; the bound is the total.
    assert time.monotonic() - began < 5


def test_a_server_that_is_no_http_server_is_called_an_old_agent(agent: FakeAgent) -> None:
    agent.strict = False
    agent.then(Fault("garbage"))
    outcome = exporter_to(agent.url).export(make_profile(), 5)
    assert outcome.verdict is not Verdict.DELIVERED


def test_a_socket_that_accepts_and_never_reads_is_bounded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        big = make_profile(profiles=(EncodedProfile("profile", b"x" * (32 << 20)),))
        began = time.monotonic()
        outcome = exporter_to(f"tcp://127.0.0.1:{port}").export(big, 0.5)
        assert outcome.verdict is Verdict.RETRY
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("unix:///nowhere/agent.sock", "No such file"),
        ("tcp://127.0.0.1:9", "refused"),
        ("unix:///" + "x" * 200, ""),
        ("tcp://name.invalid:80", ""),
    ],
)
def test_nobody_there(url: str, words: str) -> None:
    outcome = exporter_to(url).export(make_profile(), 5)
    assert outcome.verdict is Verdict.RETRY
    assert words.lower() in outcome.detail.lower()
    assert "\n" not in outcome.detail
    assert outcome.detail


def test_proxies_and_netrc_of_the_application_are_not_used(
    agent: FakeAgent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password other\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert exporter_to(agent.url).export(make_profile(), 5).verdict is Verdict.DELIVERED
    assert agent.wait_for(1)[0].credentials is None


def test_names_hide_credentials() -> None:
    exporter = exporter_to("https://me:secret@agent.example/base", server_token="s3")
    assert exporter.name == "Blackfire Agent at https://agent.example/base"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key."""
    path = tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-keyout", str(path) + ".key", "-out", str(path), "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return path


def serve_tls(certificate: Path, serve: Callable[[ssl.SSLSocket], None]) -> tuple[str, object]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, str(certificate) + ".key")
    server = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with server:
            try:
                with context.wrap_socket(server.accept()[0], server_side=True) as connection:
                    serve(connection)
            except OSError:
                pass

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return f"https://127.0.0.1:{server.getsockname()[1]}", thread


def test_tls_with_a_certificate_of_ones_own(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received = bytearray()

    def serve(connection: ssl.SSLSocket) -> None:
        while b"--\r\n" not in received[-8:]:
            received.extend(connection.recv(65_536))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    url, thread = serve_tls(certificate, serve)
    assert exporter_to(url).export(make_profile(), 10).verdict is Verdict.DELIVERED
    thread.join(10)  # type: ignore[attr-defined]
    assert received.startswith(b"POST /profiling/v1/input HTTP/1.1\r\n")


def test_tls_with_an_unknown_certificate_is_refused_by_us(certificate: Path) -> None:
    url, thread = serve_tls(certificate, lambda connection: None)
    outcome = exporter_to(url).export(make_profile(), 10)
    thread.join(10)  # type: ignore[attr-defined]
    assert outcome.verdict is Verdict.RETRY
    assert "certificate" in outcome.detail.lower()


def test_tls_answer_that_trickles_in_is_bounded(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))

    def serve(connection: ssl.SSLSocket) -> None:
        connection.recv(65_536)
        for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000:
            connection.sendall(bytes([byte]))
            time.sleep(0.02)

    url, thread = serve_tls(certificate, serve)
    began = time.monotonic()
    assert exporter_to(url).export(make_profile(), 1).verdict is Verdict.RETRY
    assert time.monotonic() - began < 8
    thread.join(30)  # type: ignore[attr-defined]


def test_a_server_that_ends_while_we_are_in_its_backlog_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The connection is reset before it is one, which no server can be made to do on time."""

    def reset(*_: object) -> NoReturn:
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    monkeypatch.setattr(_transport, "_connect", reset)
    outcome = exporter_to("tcp://127.0.0.1:9").export(make_profile(), 5)
    assert outcome.verdict is Verdict.RETRY
    assert "reset" in outcome.detail.lower()
    assert not outcome.counts, "it is no fault of the window's"
