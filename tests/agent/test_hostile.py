"""Broken and hostile uploads: each is a 4xx, none crashes the agent, none makes it grow."""

from __future__ import annotations

import gzip
import http.client
import random
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import agent as make

from conprof_core.agent import event, intake, multipart, pprof
from conprof_core.agent.errors import UploadRefusedError

zstd = pytest.importorskip("backports.zstd")
NOW = time.time()
RAW = make.pprof(make.CPU, make.samples())
COUNT = 1000


def resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


def malformed(chance: random.Random) -> bytes:
    """Return an upload that is wrong in one of many ways."""
    good = make.upload(NOW)
    kind = chance.randrange(8)
    if kind == 0:
        return good[: chance.randrange(len(good) - 40)]
    if kind == 1:
        return good.replace(b"--between", b"--betwixt", 1)
    if kind == 2:
        profile = gzip.compress(RAW)[: chance.randrange(2, 60)]
    elif kind == 3:
        profile = RAW[: chance.randrange(1, len(RAW) - 1)]
    elif kind == 4:  # a length far beyond the end
        profile = make.varint(chance.randrange(1, 7) << 3 | 2) + make.varint(1 << 40) + RAW
    elif kind == 5:  # huge counts
        profile = make.pprof(make.CPU, [([make.MAIN], {}, [(1 << 63) - 1, 1])])
    elif kind == 6:
        profile = zstd.compress(b"\0" * (65 << 20))
    else:
        profile = chance.randbytes(chance.randrange(1, 3000)) + b"\xff"
    return make.multipart(
        make.part("event", make.event(NOW), "event.json"),
        make.part("profile.pprof", profile, "profile.pprof"),
    )


@pytest.mark.slow
def test_a_thousand_malformed_uploads(tmp_path: Path) -> None:
    chance = random.Random(4)
    bodies = [malformed(chance) for _ in range(40)]
    with make.Agent(tmp_path) as agent:
        for body in bodies:
            status, text = agent.post(body)
            assert 400 <= status < 500, text
            assert "error" in text
        before = resident_kib(agent.process.pid)
        for n in range(COUNT - len(bodies)):
            status, text = agent.post(malformed(random.Random(n)))
            assert 400 <= status < 500, (n, text)
            # At every moment: a bomb, 64 MiB, does not wait for the collector to leave.
            assert resident_kib(agent.process.pid) - before < 48 << 10, n
        assert agent.get("services")["services"] == []
        assert agent.get("status")["store"]["files"] == 0
        assert agent.post(make.upload())[0] == 200
    assert "Traceback" not in agent.output


def test_wrong_content_lengths_and_endings(tmp_path: Path) -> None:
    with make.Agent(tmp_path) as agent:
        for declared in ("-1", "abc", "99999999999999999999", str(21 << 20)):
            connection = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=30)
            connection.putrequest("POST", make.INPUT)
            connection.putheader("Content-Type", make.CONTENT_TYPE)
            connection.putheader("Content-Length", declared)
            connection.endheaders()
            assert 400 <= connection.getresponse().status < 500
            connection.close()
        body = make.upload()
        connection = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=30)
        connection.putrequest("POST", make.INPUT)
        connection.putheader("Content-Type", make.CONTENT_TYPE)
        connection.putheader("Content-Length", str(len(body) + 100))
        connection.endheaders(body)
        connection.close()  # the client goes away before it sent what it promised
        assert agent.get("status")["uploads"]["stored"] == 0
        assert agent.post(body, "text/plain")[0] == 415
        assert agent.post(body, "multipart/form-data")[0] == 400
        assert agent.post(body)[0] == 200
    assert "Traceback" not in agent.output


FUZZ = settings(
    max_examples=300,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


@FUZZ
@given(st.binary(max_size=400))
def test_the_pprof_decoder_refuses_or_decodes_any_bytes(data: bytes) -> None:
    try:
        profile = pprof.decode(data)
    except UploadRefusedError:
        return
    assert profile.sample_types


@FUZZ
@given(st.integers(0, len(RAW) - 1), st.binary(min_size=1, max_size=6))
def test_the_pprof_decoder_survives_any_damage(at: int, damage: bytes) -> None:
    try:
        intake.rows_of(pprof.decode(RAW[:at] + damage + RAW[at + len(damage) :]))
    except UploadRefusedError:
        pass


@FUZZ
@given(st.binary(max_size=600))
def test_the_multipart_parser_refuses_or_splits_any_bytes(data: bytes) -> None:
    line = b"--" + make.BOUNDARY.encode()
    for body in (data, line + b"\r\n" + data, line + b"\r\n" + data + b"\r\n" + line + b"--\r\n"):
        try:
            multipart.split(body, make.BOUNDARY.encode())
        except UploadRefusedError:
            pass


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
FIELDS = ("start", "end", "tags_profiler", "internal", "endpoint_counts", "family")


@FUZZ
@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_the_event_parser_refuses_or_reads_any_json(content: dict[str, object]) -> None:
    import json

    try:
        found = event.parse_event(json.dumps(content).encode("utf-8", "surrogatepass"))
    except UploadRefusedError:
        return
    assert found.service
