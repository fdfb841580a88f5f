"""Who may read: peers, proxies, names and tokens."""

from __future__ import annotations

import base64

import pytest

from conprof_core.pull import Request
from conprof_core.pull.access import refused
from pull.serving import serving

TOKEN = "correct-horse-battery"
LOCAL = {"host": "127.0.0.1:8000"}


def request(peer: str = "127.0.0.1", version: str = "1.1", **headers: str) -> Request:
    """A request for a profile; ``_`` in the names of headers is ``-``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request("GET", "/heap", "", {**LOCAL, **named}, peer, version, can_wait=True)


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "app.localhost"])
def test_this_machine_may(peer: str, host: str) -> None:
    assert refused(request(peer, host=host), None) is None


@pytest.mark.parametrize(
    "peer", ["10.0.0.1", "192.168.1.2", "::ffff:10.0.0.1", "2001:db8::1", "", "@", "nobody"]
)
def test_other_machines_and_unknown_peers_may_not(peer: str) -> None:
    answer = refused(request(peer), None)
    assert answer is not None
    assert answer.status == 403
    assert b"CONPROF_PULL_TOKEN" in answer.body
    assert ("X-Go-Pprof", "1") in answer.headers


@pytest.mark.parametrize(
    "header",
    [
        "x_forwarded_for",
        "x_forwarded_proto",
        "x_forwarded_host",
        "forwarded",
        "via",
        "x_real_ip",
        "cf_connecting_ip",
    ],
)
def test_what_a_proxy_passed_on_is_not_of_this_machine(header: str) -> None:
    answer = refused(request(**{header: "127.0.0.1"}), None)
    assert answer is not None
    assert answer.status == 403
    assert b"proxy" in answer.body


def test_nor_is_http_1_0_which_proxies_speak() -> None:
    answer = refused(request(version="1.0"), None)
    assert answer is not None
    assert answer.status == 403
    assert refused(request(version=""), None) is None, "a server that does not say"
    assert refused(request(version="2"), None) is None


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""]
)
def test_a_name_of_somebody_else_is_refused(host: str) -> None:
    answer = refused(request(host=host), None)
    assert answer is not None
    assert answer.status == 403


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    "authorization",
    [f"Bearer {TOKEN}", f"bearer  {TOKEN}", basic("", TOKEN), basic("anybody", TOKEN)],
)
def test_who_knows_the_token_may_from_anywhere(authorization: str) -> None:
    asked = request("203.0.113.9", "1.0", x_forwarded_for="10.0.0.1", host="shop.example")
    assert refused(asked, TOKEN) is not None, "premise: it is the token that opens"
    asked.headers["authorization"] = authorization  # type: ignore[index]
    assert refused(asked, TOKEN) is None


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN.upper()}",
        "Bearer é",
        f"Token {TOKEN}",
        basic(TOKEN, ""),
        basic("x", "wrong"),
        "Basic ***",
        "Basic é",
        f"Basic {TOKEN}",
    ],
)
@pytest.mark.parametrize("peer", ["127.0.0.1", "203.0.113.9"])
def test_nobody_else_may_this_machine_included(authorization: str, peer: str) -> None:
    answer = refused(request(peer, authorization=authorization), TOKEN)
    assert answer is not None
    assert answer.status == 401
    assert dict(answer.headers)["WWW-Authenticate"].startswith("Bearer")
    assert TOKEN.encode() not in answer.body


def test_a_token_in_the_url_opens_nothing() -> None:
    asked = request()._replace(query=f"token={TOKEN}")
    assert refused(asked, TOKEN) is not None


@pytest.mark.parametrize("kind", ["flask", "starlette", "django", "django-asgi"])
def test_servers_hand_over_what_access_depends_on(kind: str) -> None:
    with serving(kind) as target:
        assert target.pprof("cmdline").status == 200
        assert target.pprof("cmdline", {"X-Forwarded-For": "127.0.0.1"}).status == 403
        assert target.pprof("cmdline", {"Forwarded": "for=127.0.0.1"}).status == 403
        assert target.pprof("cmdline", {"Host": "evil.example"}).status == 403
        assert target.pprof("cmdline", {"Authorization": f"Bearer {TOKEN}"}).status == 200
        assert old_http(target.port).startswith(b"HTTP/1.")
        assert b" 403 " in old_http(target.port).splitlines()[0]
    with serving(kind, CONPROF_PULL_TOKEN=TOKEN) as target:
        for path in ("", "cmdline", "profile?seconds=60", "heap", f"heap?token={TOKEN}"):
            assert target.pprof(path).status == 401, path
        assert target.pprof("cmdline", {"Authorization": "Bearer wrong"}).status == 401
        knows = {"Authorization": f"Bearer {TOKEN}", "X-Forwarded-For": "203.0.113.9"}
        assert target.pprof("cmdline", knows).status == 200
        assert target.pprof("goroutine", knows).status == 200


def old_http(port: int) -> bytes:
    """Ask as a proxy does that speaks HTTP/1.0."""
    import socket

    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(b"GET /debug/pprof/cmdline HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


@pytest.mark.parametrize("kind", ["flask", "starlette", "django", "django-asgi"])
def test_it_is_off_unless_it_is_asked_for_and_with_the_kill_switch(kind: str) -> None:
    with serving(kind, CONPROF_PULL="") as target:
        assert target.pprof("").status == 404
        assert "x-go-pprof" not in target.pprof("heap").headers
    with serving(kind, CONPROF_DISABLED="1") as target:
        assert target.pprof("").status == 404
