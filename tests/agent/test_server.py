"""The agent as a process: what it answers, whom it refuses, how it ends."""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import agent as make
from support.pprof_reader import GZIP_MAGIC
from support.process import run_script

from conprof_core.agent import limits, pprof

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory):
    with make.Agent(tmp_path_factory.mktemp("data")) as running:
        now = time.time()
        for n in range(4):
            assert running.post(make.upload(now - n * 10))[0] == 200
        yield running
    assert running.process.returncode == 0


def test_every_query_answers(agent: make.Agent) -> None:
    (service,) = agent.get("services")["services"]
    assert service["name"] == "shop"
    assert [kind["name"] for kind in service["types"]] == ["cpu", "cpu_samples"]
    keys = {entry["key"] for entry in agent.get("labels", service="shop")["labels"]}
    assert {"http.route", "thread", "host", "process_id"} <= keys
    table = agent.get("table", service="shop")
    assert [row["value"] for row in table["rows"]] == ["/cart/<int:id>", "/"]
    flame = agent.get("flamegraph", service="shop")
    assert flame["total"] == 400_000_000
    names = [flame["functions"][f][0] for f in flame["nodes"]["function"]]
    assert sorted(names[1:]) == ["cold", "hot", "main"]
    kinds = {f[0]: f[2:] for f in flame["functions"]}
    assert kinds["cold"] == ["django", "library"]
    assert kinds["hot"] == ["shop.views", "own"]
    top = agent.get("top", service="shop")["rows"]
    assert (top[0]["function"], top[0]["self"], top[0]["line"]) == ("hot", 280_000_000, 20)
    assert agent.get("series", service="shop", step=10)["lines"]
    assert agent.get("status")["uploads"]["stored"] >= 4


def test_a_process_stays_one_whatever_its_windows_lost(tmp_path: Path) -> None:
    now = time.time()
    with make.Agent(tmp_path) as agent:
        for n in range(4):
            tags = f"service:shop,process_id:7,conprof_lost_truncated:{n},conprof_lost_late:2"
            assert agent.post(make.upload(now - n * 10, tags_profiler=tags))[0] == 200
        assert agent.post(make.upload(now, tags_profiler="service:other"))[0] == 200
        services = {entry["name"]: entry for entry in agent.get("services")["services"]}
        assert services["shop"]["processes"] == 1
        keys = {entry["key"] for entry in agent.get("labels", service="shop")["labels"]}
        assert not any("lost" in key for key in keys)
        lost = agent.get("losses", service="shop")
        assert lost == {"windows": 4, "reasons": {"late": 8, "truncated": 6}}
        assert agent.get("losses", service="other") == {"windows": 1, "reasons": {}}
        assert agent.get("losses", service="nobody")["windows"] == 0


def test_a_difference_has_both_sides(agent: make.Agent) -> None:
    both = agent.get(
        "diff", service="shop", label="http.route=/", **{"base.label": "http.route=/cart/<int:id>"}
    )
    assert (both["total"], both["base_total"]) == (120_000_000, 280_000_000)
    sides = dict(
        zip(
            (both["functions"][f][0] for f in both["nodes"]["function"]),
            zip(both["nodes"]["self"], both["nodes"]["base_self"], strict=True),
            strict=True,
        )
    )
    assert sides["hot"] == (0, 280_000_000)
    assert sides["cold"] == (120_000_000, 0)


def test_exports_hold_the_same_values(agent: make.Agent) -> None:
    path = "/api/v1/flamegraph?service=shop&format="
    status, content, headers = agent.request("GET", "/api/v1/profile?service=shop")
    assert status == 200
    assert content.startswith(GZIP_MAGIC)
    assert headers["content-type"] == "application/octet-stream"
    profile = pprof.decode(gzip.decompress(content))
    assert sum(sample.values[0] for sample in profile.samples) == 400_000_000
    assert {dict(s.labels)["http.route"] for s in profile.samples} == {"/", "/cart/<int:id>"}
    folded = agent.request("GET", path + "folded")[1].decode()
    assert folded == "main;hot 280000000\nmain;cold 120000000\n"
    speedscope = json.loads(agent.request("GET", path + "speedscope")[1])
    (only,) = speedscope["profiles"]
    assert sum(only["weights"]) == 400_000_000
    assert speedscope["shared"]["frames"][only["samples"][0][-1]]["line"] in (20, 30)


def test_the_pprof_tool_reads_a_selection(agent: make.Agent, tmp_path: Path) -> None:
    got = subprocess.run([ROOT / ".ci" / "get-pprof"], capture_output=True, text=True, timeout=600)
    if got.returncode:
        pytest.skip(got.stderr.strip())
    root = f"http://127.0.0.1:{agent.port}"
    environment = {**os.environ, "HOME": str(tmp_path), "PPROF_TMPDIR": str(tmp_path)}

    def top(*sources: str) -> str:
        return subprocess.run(
            [got.stdout.strip(), "-top", "-unit=ms", *sources],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout

    printed = top(f"{root}/api/v1/profile?service=shop&label=http.route=/")
    assert "Type: cpu" in printed
    assert "Total samples = 120ms" in printed
    assert re.search(r"^\s*120ms .* cold$", printed, re.MULTILINE), printed
    assert not re.search(r" hot$", printed, re.MULTILINE)
    assert re.search(r"^\s*280ms .* hot$", top(f"{root}/debug/pprof/profile"), re.MULTILINE)
    base = f"-diff_base={root}/api/v1/profile?label=http.route=/cart/%3Cint:id%3E"
    assert re.search(
        r"^\s*-280ms .* hot$", top(base, f"{root}/api/v1/profile?label=http.route=/"), re.MULTILINE
    )


@pytest.mark.parametrize(
    "query",
    [
        "table?from=soon",
        "table?from=now&to=-1h",
        "table?from=nan",
        "flamegraph?format=exe",
        "flamegraph?max_nodes=-1",
        "series?step=x",
        "labels?label=novalue",
        "top?limit=99999999999999",
        pytest.param("top?limit=000000001000000", id="zeros before too large a limit"),
        pytest.param(f"top?limit={'0' * 5000}1", id="a limit of thousands of digits"),
        "series?step=-1",
        "series?step=inf",
        "series?step=nan",
    ],
)
def test_a_bad_query_is_told_so(agent: make.Agent, query: str) -> None:
    status, content, _ = agent.request("GET", f"/api/v1/{query}")
    assert status == 400
    assert json.loads(content)["error"]


@pytest.mark.parametrize(
    "query",
    [
        "from=0&step=10",
        "from=0&to=99999999999&step=0.001",
        "from=-999999999d&step=1",
        "from=-1h&step=1e300",
        "from=now&to=now&step=1",
    ],
)
def test_a_series_has_a_bounded_number_of_buckets(agent: make.Agent, query: str) -> None:
    status, content, _ = agent.request("GET", f"/api/v1/series?service=shop&{query}")
    assert status == 200, content
    answer = json.loads(content)
    assert 1 <= answer["buckets"] <= limits.MAX_BUCKETS + 1
    assert all(len(line["values"]) == answer["buckets"] for line in answer["lines"])


@pytest.mark.parametrize("path", ["/../../etc/passwd", "/%2e%2e/store.py", "/api/v1/", "/x.html"])
def test_no_path_reaches_the_disk(agent: make.Agent, path: str) -> None:
    assert agent.request("GET", path)[0] == 404


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8307", "10.0.0.1", ""])
def test_a_foreign_host_is_refused(agent: make.Agent, host: str) -> None:
    assert agent.request("GET", "/api/v1/status", headers={"Host": host})[0] in (400, 403)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
def test_a_foreign_origin_is_refused_even_for_uploads(agent: make.Agent, origin: str) -> None:
    headers = {"Origin": origin, "Content-Type": make.CONTENT_TYPE}
    assert agent.request("POST", make.INPUT, make.upload(), headers)[0] == 403


def test_every_answer_carries_the_policy(agent: make.Agent) -> None:
    for path in ("/", "/app.js", "/api/v1/status", "/nothing"):
        _, _, headers = agent.request("GET", path)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"


def test_info_is_tolerated(agent: make.Agent) -> None:
    assert agent.request("GET", "/info")[0] == 200


def test_a_second_agent_is_refused_and_says_by_whom(tmp_path: Path) -> None:
    with make.Agent(tmp_path) as first:
        second = subprocess.run(
            [
                sys.executable,
                "-m",
                "conprof_core.cli.main",
                "agent",
                "--listen=127.0.0.1:0",
                f"--data={tmp_path}",
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert second.returncode == 2
        assert f"pid {first.process.pid}, {first.url}" in second.stderr
        assert "Traceback" not in second.stderr


def test_other_addresses_need_a_token(tmp_path: Path) -> None:
    refused = subprocess.run(
        [
            sys.executable,
            "-m",
            "conprof_core.cli.main",
            "agent",
            "--listen=0.0.0.0:0",
            f"--data={tmp_path}",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert refused.returncode == 2
    assert "--token" in refused.stderr


def test_with_a_token_everyone_shows_it(tmp_path: Path) -> None:
    with make.Agent(tmp_path, "--token=s3cret") as agent:
        assert agent.post(make.upload())[0] == 401
        bearer = {"Authorization": "Bearer s3cret", "Content-Type": make.CONTENT_TYPE}
        assert agent.request("POST", make.INPUT, make.upload(), bearer)[0] == 200
        basic = {"Authorization": "Basic aWQ6czNjcmV0"}  # id:s3cret, as a probe sends it
        assert agent.request("GET", "/api/v1/status", headers=basic)[0] == 200
        wrong = {"Authorization": "Bearer s3cre"}
        assert agent.request("GET", "/api/v1/status", headers=wrong)[0] == 401
        status, _, headers = agent.request("GET", "/?token=s3cret&view=top")
        assert (status, headers["location"]) == (303, "/?view=top")
        assert "httponly" in headers["set-cookie"].lower()
        cookie = headers["set-cookie"].partition(";")[0]
        assert agent.request("GET", "/", headers={"Cookie": cookie})[0] == 200


def test_the_unix_socket_takes_uploads(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with make.Agent(tmp_path / "data", f"--unix={path}") as agent:
        body = make.upload()
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(str(path))
            head = f"POST {make.INPUT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            head += f"Content-Type: {make.CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body)
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        assert agent.get("status")["uploads"]["stored"] == 1
        assert path.stat().st_mode & 0o777 == 0o660
    assert not path.exists()


def test_our_own_probe_uploads_through_the_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with make.Agent(tmp_path / "data", f"--unix={path}", "--token=s3cret") as agent:
        program = f"""
            import conprof_core as conprof
            conprof.start(application_name="by-socket", agent_socket="unix://{path}", period=3600)
            with conprof.labels({{"http.route": "/here"}}):
                sum(i * i for i in range(3_000_000))
            conprof.stop()
        """
        run_script(program).check()
        headers = {"Authorization": "Bearer s3cret"}
        status, content, _ = agent.request(
            "GET", "/api/v1/table?service=by-socket", headers=headers
        )
        assert status == 200
        assert "/here" in {row["value"] for row in json.loads(content)["rows"]}
