"""Control over the pull handler: who may, what it changes, and what becomes of readers."""

from __future__ import annotations

import json
import threading
import time
from typing import Any
from urllib.parse import urlencode

import pytest
from support.check_scrape import Response
from support.check_valid import check_bytes
from support.pprof_reader import parse

from pull.serving import Target, serving

TOKEN = "correct-horse-battery"
KNOWS = {"Authorization": f"Bearer {TOKEN}"}
KINDS = ["flask", "starlette", "django", "django-asgi"]


def post(target: Target, headers: dict[str, str] | None = None, **changes: object) -> Response:
    """Ask for changes."""
    path = f"/debug/pprof/control?{urlencode(changes)}"
    return target.get(path, KNOWS if headers is None else headers, "POST")


def state(answer: Response) -> dict[str, Any]:
    """What holds, as an answer says it."""
    assert answer.status == 200, answer.body
    found: dict[str, Any] = json.loads(answer.body)["state"]
    return found


def burnt_ns(target: Target) -> int:
    """CPU time of the work, in a profile of a span in which there is some."""
    worker = threading.Thread(target=target.get, args=("/burn/300",))
    worker.start()
    profile = check_bytes(target.pprof("profile?seconds=1", KNOWS).body)
    worker.join()
    return profile.by_function("cpu").get("burn", 0)


@pytest.mark.parametrize("kind", KINDS)
def test_who_knows_the_token_turns_it_off_and_on(kind: str) -> None:
    with serving(kind, CONPROF_PULL_TOKEN=TOKEN, CONPROF_PROFILE_TYPES="cpu") as target:
        first = state(target.pprof("control", KNOWS))
        assert (first["enabled"], first["cpu_profile_rate"]) == (True, 100)
        off = state(post(target, enabled="no", cpu_profile_rate="50"))
        assert (off["enabled"], off["cpu_profile_rate"]) == (False, 50)
        assert off["sources"]["enabled"] == "request"
        assert state(target.pprof("control", KNOWS)) == off
        refused = target.pprof("profile?seconds=1", KNOWS)
        assert refused.status == 503
        assert b"turned off" in refused.body
        assert target.get("/burn/1").status == 200, "the application goes on"
        assert state(post(target, enabled="yes"))["enabled"] is True
        assert burnt_ns(target) > 0.2e9


def test_who_does_not_know_it_changes_nothing() -> None:
    with serving("starlette", CONPROF_PULL_TOKEN=TOKEN) as target:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            assert post(target, headers, enabled="no").status == 401
            assert target.pprof("control", headers).status == 401
        assert state(target.pprof("control", KNOWS))["changes"] == 0
    with serving("starlette") as target:  # no token: this machine may read, and no more
        assert state(target.pprof("control"))["enabled"] is True
        for headers in ({}, KNOWS):
            answer = post(target, headers, enabled="no")
            assert answer.status == 403
            assert b"CONPROF_PULL_TOKEN" in answer.body
        assert state(target.pprof("control"))["changes"] == 0


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "for example"),
        ("enabled", "cannot be read"),
        ("enabled=maybe", "true or false"),
        ("enabled=yes&enabled=no", "twice"),
        ("cpu_profile_rate=0", "cpu_profile_rate"),
        ("export_to=file:///tmp", "these can change"),
        ("pull_token=another-token-of-mine", "these can change"),
        ("profile_types=", "at least one"),
        ("&".join(f"a{number}=1" for number in range(100)), "cannot be read"),
    ],
)
def test_what_cannot_be_done_changes_nothing_and_says_why(
    query: str, said: str, pull_target: Target
) -> None:
    before = state(pull_target.pprof("control", KNOWS))
    answer = pull_target.get(f"/debug/pprof/control?{query}", KNOWS, "POST")
    assert answer.status == 400
    assert said in answer.body.decode()
    assert state(pull_target.pprof("control", KNOWS)) == before


@pytest.fixture(scope="module")
def pull_target() -> Any:
    with serving("flask", CONPROF_PULL_TOKEN=TOKEN) as target:
        yield target


def test_other_methods_are_refused(pull_target: Target) -> None:
    for method in ("PUT", "DELETE", "PATCH"):
        answer = pull_target.get("/debug/pprof/control?enabled=no", KNOWS, method)
        assert answer.status == 405
        assert answer.headers["allow"] == "GET, POST"
    assert state(pull_target.pprof("control", KNOWS))["enabled"] is True


@pytest.mark.parametrize("kind", ["flask", "starlette"])
def test_a_reader_is_told_when_it_is_turned_off_meanwhile(kind: str) -> None:
    found: list[Response] = []
    with serving(kind, CONPROF_PULL_TOKEN=TOKEN) as target:
        reader = threading.Thread(
            target=lambda: found.append(target.pprof("profile?seconds=3", KNOWS))
        )
        reader.start()
        time.sleep(1)
        assert reader.is_alive(), "premise: it reads"
        post(target, enabled="no")
        reader.join(30)
    assert found[0].status == 503
    assert b"turned off while" in found[0].body


def allocated(target: Target) -> int:
    """Bytes of all allocations so far."""
    return parse(target.pprof("heap", KNOWS).body).total("alloc_space")


@pytest.mark.usefixtures("native_engine")
def test_allocations_so_far_follow_the_types() -> None:
    with serving("flask", CONPROF_PULL_TOKEN=TOKEN) as target:
        target.get("/allocate/4000")
        assert allocated(target) > 2e6
        assert state(post(target, profile_types="cpu"))["profile_types"] == ["cpu"]
        gone = target.pprof("heap", KNOWS)
        assert gone.status == 404
        assert b"not measured" in gone.body
        post(target, profile_types="cpu,heap")
        target.get("/allocate/8000")
        assert 4e6 < allocated(target) < 40e6
