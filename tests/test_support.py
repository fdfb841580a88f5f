"""The tools of the tests must be right: a receiver that accepts everything proves little."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import requests
from support.check_valid import check_conprof, check_valid
from support.fake_agent import PATH, FakeAgent, Fault, answer
from support.pprof_reader import WireError, parse
from support.process import READY, run_script, start_script


def field(number: int, value: int | bytes) -> bytes:
    """Encode one field, the way the protocol buffers documentation describes it."""

    def varint(number: int) -> bytes:
        out = b""
        while number >= 0x80:
            out += bytes([number & 0x7F | 0x80])
            number >>= 7
        return out + bytes([number])

    if isinstance(value, int):
        return varint(number << 3) + varint(value % (1 << 64))
    return varint(number << 3 | 2) + varint(len(value)) + value


STRINGS = ["", "cpu", "nanoseconds", "python3", "main", "/app/main.py", "job", "nightly"]


def small_profile(*, location_id: int = 1, values: bytes = b"\x05", strings: int = 8) -> bytes:
    """A valid profile of one sample, by hand, with switches that break it."""
    return b"".join(
        [
            field(1, field(1, 1) + field(2, 2)),
            field(
                2,
                field(1, bytes([location_id]))
                + field(2, values)
                + field(3, field(1, 6) + field(2, 7)),
            ),
            field(3, field(1, 1) + field(5, 3) + field(7, 1) + field(8, 1) + field(9, 1)),
            field(4, field(1, 1) + field(2, 1) + field(4, field(1, 1) + field(2, 12))),
            field(5, field(1, 1) + field(2, 4) + field(4, 5) + field(5, 10)),
            *[field(6, text.encode()) for text in STRINGS[:strings]],
            field(9, 10**18),
            field(10, 10**9),
            field(11, field(1, 1) + field(2, 2)),
            field(12, 10**7),
        ]
    )


def upload(
    agent: FakeAgent, pprof: bytes, *, tags: str = "service:shop,a:b:c", event_first: bool = True
) -> int:
    """Send one upload with requests' own multipart encoder; return the status."""
    event = {
        "start": "2026-01-01T00:00:00Z",
        "end": "2026-01-01T00:00:45.5Z",
        "attachments": ["profile.pprof"],
        "tags_profiler": tags,
        "family": "python",
        "version": "4",
    }
    parts = [
        ("event", ("event.json", json.dumps(event), "application/json")),
        ("profile.pprof", ("profile.pprof", pprof)),
    ]
    response = requests.post(
        agent.url.replace("tcp", "http") + PATH,
        files=parts if event_first else parts[::-1],
        timeout=5,
    )
    return response.status_code


def test_reader_spells_a_profile_out() -> None:
    profile = parse(small_profile())
    (sample,) = profile.samples
    assert sample.frames == (("main", "/app/main.py", 12, 10),)
    assert sample.labels == {"job": "nightly"}
    assert profile.total() == 5
    assert profile.by_leaf() == {"main": 5}
    assert check_valid(profile) + check_conprof(profile) == []


def test_reader_knows_negative_values() -> None:
    values = b"\xff" * 9 + b"\x01"
    assert parse(small_profile(values=values)).samples[0].values == [-1]


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",
        b"\x80" * 11,
        field(16, 1),
        field(2, field(4, 1)),
        small_profile(strings=3),
        b"\x00\x00",
    ],
)
def test_reader_refuses_what_is_no_pprof(data: bytes) -> None:
    with pytest.raises(WireError):
        parse(data)


def test_check_finds_what_is_wrong() -> None:
    assert "no location 2" in check_valid(parse(small_profile(location_id=2)))[0]
    assert "2 values for 1" in check_valid(parse(small_profile(values=b"\x05\x05")))[0]


@pytest.mark.parametrize("event_first", [True, False])
def test_agent_takes_parts_in_any_order(agent: FakeAgent, event_first: bool) -> None:
    assert upload(agent, small_profile(), event_first=event_first) == 200
    (received,) = agent.wait_for(1)
    assert received.tags == {"service": "shop", "a": "b:c"}
    assert received.profile.total() == 5


@pytest.mark.parametrize(
    ("pprof", "tags"),
    [(small_profile(location_id=2), "a:b"), (b"rubbish", "a:b"), (small_profile(), "no-colon")],
)
def test_agent_reports_what_the_model_refuses(pprof: bytes, tags: str) -> None:
    with FakeAgent(strict=False) as agent:
        upload(agent, pprof, tags=tags)
    assert len(agent.problems) == 1


def test_agent_misbehaves_as_told(agent: FakeAgent) -> None:
    agent.then(
        answer(503),
        answer(429, Retry_After="2"),
        Fault("close", after=10),
        Fault("reset"),
        Fault("garbage"),
    )
    assert upload(agent, small_profile()) == 503
    assert upload(agent, small_profile()) == 429
    for _ in range(3):
        with pytest.raises(requests.ConnectionError):
            upload(agent, small_profile())
    assert upload(agent, small_profile()) == 200
    assert len(agent.wait_for(1)) == 1
    agent.refuse()
    with pytest.raises(requests.ConnectionError):
        upload(agent, small_profile())
    agent.listen()
    assert upload(agent, small_profile()) == 200


def test_agent_listens_on_a_unix_socket(unix_agent: FakeAgent) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(unix_agent.url.removeprefix("unix://"))
        client.sendall(b"GET /info HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 404 " in client.recv(100)


def test_script_is_run_with_a_handshake(tmp_path: Path) -> None:
    source = f"""
        import sys
        print({READY!r}, flush=True)
        sys.exit(3)
    """
    with start_script(source) as process:
        assert process.wait_ready().finish(30).returncode == 3


def test_script_that_hangs_fails_with_its_stacks() -> None:
    with start_script("import time; print('begun', flush=True); time.sleep(600)") as process:
        process.wait_for_line("begun")
        with pytest.raises(AssertionError, match=r"(?s)still running.*most recent call first"):
            process.finish(0.2)


def test_script_that_ends_early_fails_with_its_output() -> None:
    with (
        start_script("raise SystemExit('no luck')") as process,
        pytest.raises(AssertionError, match="no luck"),
    ):
        process.wait_ready()


def test_environment_of_a_script_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONPROF_DISABLED", "1")
    source = "import os; print(sorted(k for k in os.environ if k.startswith('CONPROF_DIS')))"
    assert run_script(source).stdout.strip() == "[]"
