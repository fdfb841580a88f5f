"""ASGI: what is labelled for how long, what is passed through, and when profiling starts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio.to_thread
import pytest
from fastapi import BackgroundTasks, FastAPI
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from support.cells import Seen, labels_here

import conprof_core
from conprof_asgi import ConprofMiddleware
from conprof_core import ConfigError, testing

seen = Seen()


@pytest.fixture
def profiling() -> Iterator[None]:
    seen.__init__()  # type: ignore[misc]
    with testing.capture():
        yield


async def drive(app: Any, path: str, method: str = "GET", **more: Any) -> list[dict[str, Any]]:
    """Call an ASGI application as a server does, in this very task."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [],
        "query_string": b"",
        **more,
    }
    await app(scope, receive, send)
    return sent


@pytest.mark.usefixtures("profiling")
def test_the_label_ends_with_the_request() -> None:
    async def view(request: Request) -> Response:
        seen.note()
        return PlainTextResponse("ok")

    async def main() -> None:
        app = ConprofMiddleware(Starlette(routes=[Route("/a/{b}", view)]))
        await drive(app, "/a/4711")
        assert labels_here() == {}

    asyncio.run(main())
    assert seen.labels() == {
        "http.route": "/a/{b}",
        "http.request.method": "GET",
        "http.response.status_class": "2xx",
    }


@pytest.mark.usefixtures("profiling")
def test_streams_background_tasks_and_threads_belong_to_the_request() -> None:
    app = FastAPI()

    async def parts() -> AsyncIterator[str]:
        for part in range(3):
            await asyncio.sleep(0)
            seen.note(f"part {part}")
            yield "x"

    @app.get("/stream/{item}")
    async def stream(item: int) -> StreamingResponse:
        return StreamingResponse(parts())

    @app.get("/later/{item}")
    def later(item: int, tasks: BackgroundTasks) -> str:
        seen.note("sync endpoint")
        tasks.add_task(seen.note, "background")
        return ""

    @app.get("/handed/{item}")
    async def handed(item: int) -> str:
        loop = asyncio.get_running_loop()
        await asyncio.gather(
            asyncio.create_task(note_async("task")),
            asyncio.to_thread(seen.note, "to_thread"),
            anyio.to_thread.run_sync(partial(seen.note, "anyio")),
            loop.run_in_executor(None, seen.note, "run_in_executor"),
        )
        return ""

    async def note_async(name: str) -> None:
        seen.note(name)

    client = TestClient(ConprofMiddleware(app))
    client.get("/stream/1")
    client.get("/later/1")
    client.get("/handed/1")
    for part in range(3):
        assert seen.route(f"part {part}") == "/stream/{item}"
    assert seen.route("sync endpoint") == seen.route("background") == "/later/{item}"
    for name in ("task", "to_thread", "anyio", "run_in_executor"):
        assert seen.route(name) == "/handed/{item}"


@pytest.mark.usefixtures("profiling")
def test_requests_that_interleave_keep_their_own_routes() -> None:
    inside: dict[str, asyncio.Event] = {}

    async def meet(request: Request) -> Response:
        me, other = request.path_params["me"], request.path_params["other"]
        inside[me].set()
        await inside[other].wait()  # both are inside before either goes on
        seen.note(f"{request.url.path.split('/')[1]}")
        return PlainTextResponse("")

    async def main() -> None:
        inside.update(x=asyncio.Event(), y=asyncio.Event())
        app = ConprofMiddleware(
            Starlette(routes=[Route("/one/{me}/{other}", meet), Route("/two/{me}/{other}", meet)])
        )
        await asyncio.wait_for(
            asyncio.gather(drive(app, "/one/x/y"), drive(app, "/two/y/x")), timeout=10
        )

    asyncio.run(main())
    assert seen.route("one") == "/one/{me}/{other}"
    assert seen.route("two") == "/two/{me}/{other}"


@pytest.mark.usefixtures("profiling")
def test_a_mounted_app_with_the_middleware_of_its_own_counts_once() -> None:
    async def view(request: Request) -> Response:
        seen.note()
        return PlainTextResponse("ok")

    sub = ConprofMiddleware(Starlette(routes=[Route("/s/{z}", view)]))
    app = Starlette(routes=[Mount("/sub/{tenant}", app=sub)])
    app.add_middleware(ConprofMiddleware)
    app.add_middleware(ConprofMiddleware)
    assert TestClient(app).get("/sub/acme/s/4711").status_code == 200
    assert seen.route() == "/sub/{tenant}/s/{z}"


@pytest.mark.usefixtures("profiling")
def test_below_base_http_middleware() -> None:
    async def view(request: Request) -> Response:
        seen.note()
        return PlainTextResponse("ok")

    async def dispatch(request: Request, call_next: Callable[[Request], Any]) -> Response:
        response: Response = await call_next(request)
        seen.note("dispatch")
        return response

    app = Starlette(routes=[Route("/a/{b}", view)])
    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    app.add_middleware(ConprofMiddleware)
    TestClient(app).get("/a/4711")
    assert seen.route() == seen.route("dispatch") == "/a/{b}"


@pytest.mark.usefixtures("profiling")
def test_an_exception_passes_and_the_label_is_bound() -> None:
    async def view(request: Request) -> Response:
        seen.note()
        raise ZeroDivisionError

    async def main() -> None:
        app = ConprofMiddleware(Starlette(routes=[Route("/a/{b}", view)]))
        with pytest.raises(ZeroDivisionError):
            await drive(app, "/a/4711")
        assert labels_here() == {}

    asyncio.run(main())
    assert seen.labels()["http.route"] == "/a/{b}"
    assert seen.labels()["http.response.status_class"] == "5xx"


@pytest.mark.usefixtures("profiling")
def test_a_plain_application_is_unmatched_unless_it_says_more() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.note()
        with conprof_core.labels({"http.route": "/own"}):
            seen.note("own")
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    sent = asyncio.run(drive(ConprofMiddleware(app), "/4711", "BREW"))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert seen.labels() == {
        "http.route": "<unmatched>",
        "http.request.method": "_OTHER",
        "http.response.status_class": "2xx",
    }
    assert seen.route("own") == "/own"


@pytest.mark.usefixtures("profiling")
def test_an_unknown_scope_passes_untouched() -> None:
    calls: list[tuple[Any, ...]] = []

    async def app(*arguments: Any) -> None:
        calls.append(arguments)

    scope, receive, send = {"type": "pigeon"}, object(), object()
    asyncio.run(ConprofMiddleware(app)(scope, receive, send))  # type: ignore[arg-type]
    assert calls == [(scope, receive, send)]
    assert scope == {"type": "pigeon"}
    assert calls[0][0] is scope


def test_it_starts_with_the_lifespan_and_composes_with_the_users(tmp_path: Any) -> None:
    events: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
        events.append(f"up, profiling: {conprof_core.is_running()}")
        yield {"state": "kept"}
        events.append("down")

    async def view(request: Request) -> Response:
        return PlainTextResponse(request.state.state)

    app = Starlette(routes=[Route("/", view)], lifespan=lifespan)
    wrapped = ConprofMiddleware(app, export_to=f"file://{tmp_path}")
    assert not conprof_core.is_running()
    with TestClient(wrapped) as client:
        assert client.get("/").text == "kept"
    assert events == ["up, profiling: True", "down"]
    conprof_core.stop()


def test_it_starts_with_the_first_request_without_a_lifespan(tmp_path: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.note("running")

    wrapped = ConprofMiddleware(app, export_to=f"file://{tmp_path}")
    asyncio.run(drive(wrapped, "/"))
    assert conprof_core.is_running()
    assert seen.labels("running")["http.request.method"] == "GET"
    conprof_core.stop()
    asyncio.run(drive(wrapped, "/"))
    assert not conprof_core.is_running(), "what the application stopped stays stopped"


def test_a_bad_option_is_refused_when_the_app_is_built() -> None:
    with pytest.raises(ConfigError, match="period"):
        ConprofMiddleware(lambda *_: None, period="soon")  # type: ignore[arg-type, return-value]


def test_another_configuration_running_is_said_and_harmless(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    conprof_core.start(export_to=f"file://{tmp_path}", application_name="first")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.note("served")

    with caplog.at_level(logging.WARNING, "conprof"):
        asyncio.run(drive(ConprofMiddleware(app, application_name="second"), "/"))
    conprof_core.stop()
    assert "application_name" in caplog.text


@pytest.mark.usefixtures("profiling")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_litestar() -> None:
    litestar = pytest.importorskip("litestar")

    @litestar.get("/books/{book:int}", sync_to_thread=False)
    def book(book: int) -> str:
        seen.note()
        return ""

    app = litestar.Litestar([book])
    asyncio.run(
        drive(ConprofMiddleware(app), "/books/4711", path_params={}, root_path="", litestar_app=app)
    )
    assert seen.route() == "/books/{book}"
