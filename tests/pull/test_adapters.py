"""One setting turns it on in each adapter; what is not its own goes to the application."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from flask import Flask
from support.process import run_script

from conprof_asgi import ConprofMiddleware
from conprof_core import Config, ConfigError, testing
from conprof_core.pull import Pull, PullASGI, Request
from conprof_core.pull.handler import Span
from conprof_flask import Conprof

NOWHERE = {"export_to": "none:"}


async def ask(app: Any, path: str, **more: Any) -> list[dict[str, Any]]:
    """Call an ASGI application as a server does."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        return more.get("received") or {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "query_string": more.get("query", b""),
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 50_000),
        "root_path": more.get("root_path", ""),
    }
    await app(scope, receive, send)
    return sent


async def application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 299, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


def test_asgi_by_keyword(engine: str) -> None:
    import conprof_core

    app = ConprofMiddleware(application, pull=True, **NOWHERE)
    try:
        sent = asyncio.run(ask(app, "/debug/pprof/profile", query=b"seconds=0.2"))
        assert sent[0]["status"] == 200
        assert (b"content-type", b"application/octet-stream") in sent[0]["headers"]
        assert asyncio.run(ask(app, "/shop"))[0]["status"] == 299
        assert asyncio.run(ask(app, "/debug/pprofile"))[0]["status"] == 299
        # A server's root path, and an application that is mounted.
        below = asyncio.run(ask(app, "/api/debug/pprof/symbol", root_path="/api"))
        assert below[0]["status"] == 200
    finally:
        conprof_core.stop()
    off = ConprofMiddleware(application, **NOWHERE)
    try:
        assert asyncio.run(ask(off, "/debug/pprof/"))[0]["status"] == 299
    finally:
        conprof_core.stop()


def test_flask_by_configuration_and_by_keyword() -> None:
    for app, options in ((Flask("by_config"), {}), (Flask("by_keyword"), {"pull": True})):
        if not options:
            app.config["CONPROF_PULL"] = True
        Conprof(app, **options)
        app.testing = True
        client = app.test_client()
        assert client.get("/debug/pprof/").status_code == 200
        assert "does not run" in client.get("/debug/pprof/profile").text
        assert client.get("/debug/pprof/profile").status_code == 503
        assert client.get("/elsewhere").status_code == 404
        assert "X-Go-Pprof" not in client.get("/elsewhere").headers


def test_django_by_its_setting() -> None:
    source = """
        import django
        from django.conf import settings
        settings.configure(
            ALLOWED_HOSTS=[], ROOT_URLCONF=__name__, INSTALLED_APPS=["conprof_django"],
            CONPROF={"PULL": True, "PULL_TOKEN": "correct-horse-battery", "EXPORT_TO": "none:"},
        )
        django.setup()
        urlpatterns = []
        from django.core.management import call_command
        from django.test import Client
        call_command("check")
        knows = {"HTTP_AUTHORIZATION": "Bearer correct-horse-battery"}
        for path, more in [("/debug/pprof/", {}), ("/debug/pprof/", knows), ("/", knows)]:
            print(path, Client(raise_request_exception=False).get(path, **more).status_code)
    """
    assert run_script(source).stdout.splitlines() == [
        "System check identified no issues (0 silenced).",
        "/debug/pprof/ 401",
        "/debug/pprof/ 200",
        "/ 404",
    ]


def test_a_token_that_could_be_guessed_or_cannot_travel_is_refused() -> None:
    for bad in (
        "short",
        "with blanks in the middle",
        "ümlaut-ümlaut-ümlaut",
        "line\nline-line-line",
    ):
        with pytest.raises(ConfigError) as caught:
            Config(pull_token=bad)
        assert bad not in str(caught.value)
    assert "a-long-enough-token" not in repr(Config(pull_token="a-long-enough-token"))


def test_no_destination_stands_alone() -> None:
    assert Config(export_to="none:").destinations() == ()
    with pytest.raises(ConfigError, match="stands alone"):
        Config(export_to="none:,blackfire:")


def test_it_is_imported_where_it_is_on_and_nowhere_else() -> None:
    source = (
        "import sys; from flask import Flask; from conprof_flask import Conprof; "
        "Conprof(Flask('x'){}); print('conprof_core.pull' in sys.modules)"
    )
    for options, expected in (("", "False"), (", pull=True", "True")):
        ran = subprocess.run(
            [sys.executable, "-c", source.format(options)], capture_output=True, text=True
        )
        assert ran.stdout.strip() == expected, ran.stderr


# Waiting ------------------------------------------------------------------------------------------


def request(path: str, query: str = "", *, can_wait: bool = True) -> Request:
    headers = {"host": "localhost"}
    return Request("GET", path, query, headers, "127.0.0.1", "1.1", can_wait=can_wait)


def test_an_event_loop_goes_on_while_somebody_reads(engine: str) -> None:
    async def turn() -> tuple[int, int]:
        steps = 0
        reading = asyncio.ensure_future(pull.answer_async(request("/profile", "seconds=0.5")))
        while not reading.done():
            await asyncio.sleep(0.001)
            steps += 1
        answer = reading.result()
        assert answer is not None
        return answer.status, steps

    pull = Pull(Config())
    with testing.capture():
        status, steps = asyncio.run(turn())
    assert status == 200
    assert steps > 20


def test_who_leaves_an_event_loop_frees_the_place(engine: str) -> None:
    from conprof_core import _profiler

    async def leave() -> None:
        gone = asyncio.Event()
        reading = asyncio.ensure_future(
            pull.answer_async(request("/profile", "seconds=60"), gone.wait)
        )
        cancelled = asyncio.ensure_future(pull.answer_async(request("/profile", "seconds=60")))
        while len(cuts._readings) < 2:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)
        gone.set()
        assert await reading is None
        cancelled.cancel()
        await asyncio.wait({cancelled})
        assert not cuts._readings

    pull = Pull(Config())
    with testing.capture():
        session = _profiler.session()
        assert session is not None
        cuts = session.loop.cuts
        asyncio.run(asyncio.wait_for(leave(), 30))


def test_asgi_answers_nobody_who_has_gone() -> None:
    with testing.capture():
        app = PullASGI(Config())
        disconnected = {"type": "http.disconnect"}
        sent = asyncio.run(
            ask(app, "/debug/pprof/profile", query=b"seconds=60", received=disconnected)
        )
    assert sent == []


def test_a_server_that_cannot_wait_is_not_stopped(engine: str) -> None:
    pull = Pull(Config())
    with testing.capture():
        answer = pull.answer(request("/profile", can_wait=False))
        assert answer.status == 503
        assert b"--threads" in answer.body
        assert pull.answer(request("/goroutine", can_wait=False)).status == 200


def test_half_a_minute_is_what_nobody_says(engine: str) -> None:
    pull = Pull(Config())
    with testing.capture():
        span = pull.prepared(request("/profile"))
    assert isinstance(span, Span)
    assert span.seconds == 30


def test_without_a_profiler_there_is_a_remedy_and_what_needs_none() -> None:
    pull = Pull(Config())
    answer = pull.answer(request("/profile"))
    assert answer.status == 503
    assert b"conprof doctor" in answer.body
    assert b"not running" in pull.answer(request("/")).body
    assert pull.answer(request("/goroutine")).status == 200


def test_what_is_not_measured_says_how_to_turn_it_on(engine: str) -> None:
    pull = Pull(Config())
    with testing.capture(profile_types="cpu"):
        answer = pull.answer(request("/heap"))
    assert answer.status == 404
    assert b"CONPROF_PROFILE_TYPES=cpu,heap" in answer.body


def test_an_end_of_the_profiler_ends_the_reading(engine: str) -> None:
    pull = Pull(Config())
    with testing.capture():
        span = pull.prepared(request("/profile"))
        assert isinstance(span, Span)
        assert span.begin() is None
    answer = span.end()
    assert answer.status == 503
    assert b"stopped" in answer.body


def test_an_error_of_ours_is_an_answer(swallow_internal_errors: None, engine: str) -> None:
    from conprof_core import _profiler

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    with testing.capture():
        session = _profiler.session()
        assert session is not None
        session.loop.cuts.begin = fail  # type: ignore[method-assign]
        answer = Pull(Config()).answer(request("/profile", "seconds=1"))
    assert answer.status == 500


def test_a_loop_that_is_not_asyncio_s_is_told_so() -> None:
    coroutine = Pull(Config()).answer_async(request("/profile"))
    with pytest.raises(StopIteration) as caught:
        coroutine.send(None)
    assert caught.value.value.status == 503


def test_a_fork_while_somebody_reads(engine: str) -> None:
    source = """
        import os, time, conprof_core
        from conprof_core.pull import Pull, Request
        def work(seconds):
            until = time.thread_time() + seconds
            while time.thread_time() < until: sum(range(500))
        conprof_core.start(pull=True, export_to="none:")
        pull = Pull(conprof_core.Config())
        asked = Request("GET", "/profile", "", {"host": "localhost"}, "127.0.0.1", "1.1", True)
        span = pull.prepared(asked)
        print(span.begin())
        work(0.2)
        child = os.fork()
        if child == 0:
            print("stale", span.end().status, flush=True)
            fresh = pull.answer(asked._replace(query="seconds=0.1"))
            print("child", fresh.status, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        print("parent", span.end().status, flush=True)
        conprof_core.stop()
    """
    lines = run_script(source, options=["-W", "ignore"]).stdout.splitlines()
    assert lines == ["None", "stale 503", "child 200", "parent 200"]
