"""ASGI: the label is the whole template, whatever routers and mounts lead there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient
from starlette.websockets import WebSocket
from support.cells import Seen

from conprof_asgi import ConprofMiddleware
from conprof_core import testing

seen = Seen()


@pytest.fixture(autouse=True)
def profiling() -> Iterator[None]:
    seen.__init__()  # type: ignore[misc]
    with testing.capture():
        yield


async def view(request: Request) -> Response:
    seen.note()
    return PlainTextResponse("ok")


def sync_view(request: Request) -> Response:
    seen.note()
    return PlainTextResponse("ok")


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    seen.note()
    await websocket.close()


class Endpoint(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        seen.note()
        return PlainTextResponse("ok")


class NoteAlways:
    """Middleware inside of ours, which also sees what no route serves."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.note("always")
        await self.app(scope, receive, send)


def starlette_app(tmp_path: Path) -> Starlette:
    inner = Router([Route("/z/{z:int}", view), WebSocketRoute("/ws/{room}", socket)])
    sub = Starlette(routes=[Route("/s/{z}", sync_view), Mount("/deep/{level}", inner)])
    return Starlette(
        routes=[
            Route("/", view),
            Route("/items/{item:int}", view, methods=["GET"]),
            Route("/class/{name}", Endpoint),
            Route("/files/{path:path}", view),
            WebSocketRoute("/chat/{room}", socket),
            Mount("/star/{tenant}", app=sub),
            Mount("/one", app=inner, name="one"),
            Mount("/two/{x}", app=inner, name="two"),
            Mount("/static", app=StaticFiles(directory=tmp_path), name="static"),
            Host("{sub}.example.org", app=Router([Route("/host/{h}", view)])),
        ]
    )


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/", "/"),
        ("/items/4711", "/items/{item}"),
        ("/class/acme", "/class/{name}"),
        ("/files/a/b/4711", "/files/{path}"),
        ("/star/acme/s/4711", "/star/{tenant}/s/{z}"),
        ("/star/acme/deep/7/z/4711", "/star/{tenant}/deep/{level}/z/{z}"),
        ("/one/z/4711", "/one/z/{z}"),
        ("/two/acme/z/4711", "/two/{x}/z/{z}"),
        ("/static/file.txt", "/static/{path}"),
        ("/static/none-4711.txt", "/static/{path}"),
        ("/nothing/4711", "<unmatched>"),
        ("/star/acme/nothing/4711", "<unmatched>"),
        ("/items/4711/", "<unmatched>"),
    ],
)
@pytest.mark.parametrize("outermost", [True, False])
def test_starlette(path: str, route: str, outermost: bool, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("file")
    app: Any = starlette_app(tmp_path)
    app.add_middleware(NoteAlways)
    if outermost:
        app = ConprofMiddleware(app)
    else:
        app.add_middleware(ConprofMiddleware)
    TestClient(app, follow_redirects=False).get(path)
    assert seen.route("always") == route
    if "view" in seen:
        assert seen.route() == route


def test_405_has_its_route(tmp_path: Path) -> None:
    app = starlette_app(tmp_path)
    app.add_middleware(NoteAlways)
    assert TestClient(ConprofMiddleware(app)).post("/items/4711").status_code == 405
    assert seen.labels("always") == {
        "http.route": "/items/{item}",
        "http.request.method": "POST",
        "http.response.status_class": "4xx",
    }


def test_a_host_route(tmp_path: Path) -> None:
    client = TestClient(ConprofMiddleware(starlette_app(tmp_path)), base_url="http://a.example.org")
    assert client.get("/host/4711").status_code == 200
    assert seen.route() == "/host/{h}"


def test_a_root_path_is_no_part_of_the_route(tmp_path: Path) -> None:
    client = TestClient(ConprofMiddleware(starlette_app(tmp_path)), root_path="/v4711")
    assert client.get("/v4711/star/acme/s/1").status_code == 200
    assert seen.route() == "/star/{tenant}/s/{z}"


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/chat/4711", "/chat/{room}"),
        ("/one/ws/4711", "/one/ws/{room}"),
        ("/star/acme/deep/7/ws/4711", "/star/{tenant}/deep/{level}/ws/{room}"),
    ],
)
def test_starlette_websockets(path: str, route: str, tmp_path: Path) -> None:
    with TestClient(ConprofMiddleware(starlette_app(tmp_path))).websocket_connect(path):
        pass
    assert seen.labels() == {"http.route": route}


def fastapi_app() -> FastAPI:
    app = FastAPI()
    inner, mid, outer = APIRouter(prefix="/inner"), APIRouter(prefix="/mid"), APIRouter()

    @inner.get("/x/{a}")
    async def x(a: int) -> str:
        seen.note()
        return ""

    @inner.get("/sync/{a}")
    def sync(a: int) -> str:
        seen.note()
        return ""

    @inner.websocket("/ws/{a}")
    async def ws(websocket: WebSocket, a: int) -> None:
        await socket(websocket)

    @app.get("/plain/{a}")
    async def plain(a: int) -> str:
        seen.note()
        return ""

    @app.websocket("/ws/{a}")
    async def own(websocket: WebSocket, a: int) -> None:
        await socket(websocket)

    sub = FastAPI()

    @sub.get("/s/{b}")
    async def s(b: int) -> str:
        seen.note()
        return ""

    sub_router = APIRouter(prefix="/r")

    @sub_router.get("/{c}")
    async def r(c: int) -> str:
        seen.note()
        return ""

    sub.include_router(sub_router, prefix="/more")
    mid.include_router(inner)
    outer.include_router(mid, prefix="/outer")
    outer.mount("/hung/{y}", sub)
    app.include_router(outer, prefix="/api")
    app.mount("/sub/{tenant}", sub)
    app.add_middleware(NoteAlways)
    return app


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/plain/4711", "/plain/{a}"),
        ("/api/outer/mid/inner/x/4711", "/api/outer/mid/inner/x/{a}"),
        ("/api/outer/mid/inner/sync/4711", "/api/outer/mid/inner/sync/{a}"),
        ("/sub/acme/s/4711", "/sub/{tenant}/s/{b}"),
        ("/sub/acme/more/r/4711", "/sub/{tenant}/more/r/{c}"),
        ("/docs", "/docs"),
        ("/api/outer/mid/inner/x/not-a-number-4711", "/api/outer/mid/inner/x/{a}"),
        ("/api/outer/none/4711", "<unmatched>"),
        ("/sub/acme/none/4711", "<unmatched>"),
        ("/none/4711", "<unmatched>"),
    ],
)
@pytest.mark.parametrize("outermost", [True, False])
def test_fastapi(path: str, route: str, outermost: bool) -> None:
    app: Any = fastapi_app()
    if outermost:
        app = ConprofMiddleware(app)
    else:
        app.add_middleware(ConprofMiddleware)
    TestClient(app).get(path)
    assert seen.route("always") == route
    if "view" in seen:
        assert seen.route() == route


@pytest.mark.parametrize(
    ("path", "route"),
    [("/ws/4711", "/ws/{a}"), ("/api/outer/mid/inner/ws/4711", "/api/outer/mid/inner/ws/{a}")],
)
def test_fastapi_websockets(path: str, route: str) -> None:
    with TestClient(ConprofMiddleware(fastapi_app())).websocket_connect(path):
        pass
    assert seen.route() == route


def test_an_app_mounted_through_an_included_router_leaks_nothing() -> None:
    TestClient(ConprofMiddleware(fastapi_app())).get("/api/hung/acme/s/4711")
    assert seen.route("always") in ("/api/hung/{y}/s/{b}", "<unmatched>")


def test_a_route_added_later_is_found(tmp_path: Path) -> None:
    app = starlette_app(tmp_path)
    client = TestClient(ConprofMiddleware(app))
    client.get("/one/z/1")
    app.router.routes.append(Mount("/late/{l}", routes=[Route("/{x}", view)]))
    client.get("/late/acme/4711")
    assert seen.route() == "/late/{l}/{x}"


def test_a_router_that_names_the_endpoint_only(tmp_path: Path) -> None:
    """As Starlette before 1.0 does."""

    from conprof_asgi.routes import RouteFinder

    app = starlette_app(tmp_path)
    finder = RouteFinder(app)
    for scope, route in [
        ({"endpoint": sync_view, "path": "/star/acme/s/1"}, "/star/{tenant}/s/{z}"),
        ({"endpoint": view, "path": "/items/4711"}, "/items/{item}"),
        ({"endpoint": view, "path": "/two/acme/z/4711"}, "/two/{x}/z/{z}"),
        ({"endpoint": view, "path": "/files/a/b"}, "/files/{path}"),
        ({"endpoint": object(), "path": "/none/4711"}, None),
        ({"path": "/none/4711"}, None),
    ]:
        assert finder.find(None, scope) == route


def test_what_no_version_ever_left_there_is_survived() -> None:
    from conprof_asgi.routes import RouteFinder

    class Hostile:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    finder = RouteFinder(Hostile())
    for scope in (
        {"route": Hostile(), "path": "/"},
        {"route": object(), "app_root_path": "", "path": "/"},
        {"route": Hostile(), "fastapi": {"effective_route_context": Hostile()}, "path": "/"},
        {"endpoint": Hostile(), "path": "/"},
    ):
        assert finder.find(None, scope) is None
