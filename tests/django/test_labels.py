"""Django: which labels the code of a request wears, under WSGI and under ASGI."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import FileResponse, HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import RequestFactory, override_settings
from support import django_project
from support.cells import labels_here

from conprof_core import testing
from conprof_django.middleware import ConprofMiddleware
from conprof_django.routes import readable

seen = django_project.seen

OURS = "conprof_django.middleware.ConprofMiddleware"


@pytest.fixture(autouse=True)
def profiling() -> Iterator[None]:
    seen.__init__()  # type: ignore[misc]
    with testing.capture():
        yield


def by_wsgi(path: str, method: str = "GET") -> int:
    """Serve one request as a WSGI server does."""
    statuses: list[str] = []
    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "SERVER_NAME": "x",
        "SERVER_PORT": "80",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.url_scheme": "http",
    }
    response: Any = WSGIHandler()(environ, lambda status, headers: statuses.append(status))
    for _ in response:
        pass
    response.close()
    return int(statuses[0][:3])


def by_asgi(path: str, method: str = "GET") -> int:
    """Serve one request as an ASGI server does."""
    sent: list[Any] = []

    async def main() -> None:
        finished = asyncio.Event()

        async def receive() -> Any:
            if not finished.is_set() and not getattr(main, "read", False):
                main.read = True  # type: ignore[attr-defined]
                return {"type": "http.request", "body": b"", "more_body": False}
            await finished.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b""}
        await ASGIHandler()(scope, receive, send)
        assert labels_here() == {}

    asyncio.run(main())
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    ("path", "route", "status"),
    [
        ("/", "/", 200),
        ("/items/4711/", "/items/<int:item>/", 200),
        ("/async/4711/", "/async/<int:item>/", 200),
        ("/shop/acme/old/1984/", "/shop/<slug:s>/old/<year>/", 200),
        ("/shop/acme/var/4711/", "/shop/<slug:s>/var/<var>/", 200),
        ("/ns/4711/", "/ns/<int:a>/", 200),
        ("/api/v1/users/4711/", "/api/v1/users/<pk>/", 200),
        ("/api/v1/users/", "/api/v1/users/", 200),
        ("/broken/", "/broken/", 500),
        ("/gone/acme/", "/gone/<slug:s>/", 404),
    ],
)
@pytest.mark.parametrize("serve", [by_wsgi, by_asgi])
def test_the_route_is_a_template(serve: Any, path: str, route: str, status: int) -> None:
    assert serve(path) == status
    assert seen.labels() == {
        "http.route": route,
        "http.request.method": "GET",
        "http.response.status_class": f"{status // 100}xx",
    }


class Outcome:
    """Middleware inside of ours, which also sees what no view serves."""

    sync_capable = True
    async_capable = False

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> Any:
        seen.note("always")
        return self.get_response(request)


class AsyncOnly:
    sync_capable = False
    async_capable = True

    def __init__(self, get_response: Any) -> None:
        from asgiref.sync import markcoroutinefunction

        self.get_response = get_response
        markcoroutinefunction(self)

    async def __call__(self, request: HttpRequest) -> Any:
        seen.note("always")
        return await self.get_response(request)


class ShortCircuit:
    def __init__(self, get_response: Any) -> None:
        pass

    def __call__(self, request: HttpRequest) -> Any:
        seen.note("always")
        return HttpResponse("stop", status=403)


@pytest.mark.parametrize("serve", [by_wsgi, by_asgi])
@pytest.mark.parametrize("other", [Outcome, AsyncOnly])
def test_between_middleware_of_either_kind(serve: Any, other: type) -> None:
    name = f"{__name__}.{other.__name__}"
    with override_settings(MIDDLEWARE=[OURS, name]):
        assert serve("/items/4711/") == 200
        assert seen.route() == seen.route("always") == "/items/<int:item>/"
        assert serve("/nothing/4711/") == 404
        assert seen.labels("always") == {
            "http.route": "<unmatched>",
            "http.request.method": "GET",
            "http.response.status_class": "4xx",
        }


@pytest.mark.parametrize("serve", [by_wsgi, by_asgi])
def test_middleware_that_answers_itself_leaves_it_unmatched(serve: Any) -> None:
    with override_settings(MIDDLEWARE=[OURS, f"{__name__}.ShortCircuit"]):
        assert serve("/items/4711/") == 403
    assert seen.route("always") == "<unmatched>"


@pytest.mark.parametrize(
    ("serve", "path"),
    [
        (by_wsgi, "/stream/acme/"),
        (by_asgi, "/async-stream/acme/"),
        pytest.param(
            by_asgi, "/stream/acme/", marks=pytest.mark.filterwarnings("ignore:StreamingHttp")
        ),
        pytest.param(
            by_wsgi, "/async-stream/acme/", marks=pytest.mark.filterwarnings("ignore:StreamingHttp")
        ),
    ],
)
def test_a_streamed_body_is_labelled_to_the_end(serve: Any, path: str) -> None:
    assert serve(path) == 200
    route = path.replace("acme", "<slug:s>")
    assert [seen.route(f"part {part}") for part in range(3)] == [route] * 3
    assert labels_here() == {}


def respond_with(response: Any) -> Any:
    return ConprofMiddleware(lambda request: response)(RequestFactory().get("/"))


def test_responses_keep_their_types_and_files_stay_files() -> None:
    plain = HttpResponse("x")
    assert respond_with(plain) is plain
    with open(__file__, "rb") as file:
        response = FileResponse(file)
        assert respond_with(response) is response
        assert response.file_to_stream is file
    closed: list[bool] = []

    class Parts:
        def __iter__(self) -> Iterator[bytes]:
            yield b"x"

        def close(self) -> None:
            closed.append(True)

    stream = StreamingHttpResponse(Parts())
    assert respond_with(stream) is stream
    assert b"".join(stream) == b"x"  # type: ignore[arg-type]
    stream.close()
    assert closed == [True]


def test_an_exception_passes_and_the_label_is_bound() -> None:
    def fail(request: HttpRequest) -> Any:
        seen.note()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ConprofMiddleware(fail)(RequestFactory().get("/"))
    assert seen.route() == "<unmatched>"
    assert labels_here() == {}


def test_requests_in_one_event_loop_do_not_mix_and_do_not_hop() -> None:
    loops: set[int] = set()

    async def main() -> None:
        inside = {"a": asyncio.Event(), "b": asyncio.Event()}

        def answer(me: str, other: str) -> Any:
            async def get_response(request: Any) -> Any:
                loops.add(threading.get_ident())
                inside[me].set()
                await inside[other].wait()  # both are inside before either goes on
                request.resolver_match = type("Match", (), {"route": f"{me}/<int:x>/"})
                seen.note(me)
                return HttpResponse("")

            return get_response

        one, two = ConprofMiddleware(answer("a", "b")), ConprofMiddleware(answer("b", "a"))
        factory = RequestFactory()
        await asyncio.wait_for(
            asyncio.gather(one(factory.get("/")), two(factory.get("/"))),  # type: ignore[arg-type]
            timeout=10,
        )

    asyncio.run(main())
    assert seen.route("a") == "/a/<int:x>/"
    assert seen.route("b") == "/b/<int:x>/"
    assert loops == {threading.get_ident()}


@override_settings(CONPROF={"ROUTE_LABEL": "view_name"})
def test_the_name_of_the_view_with_its_namespaces_by_choice() -> None:
    with override_settings(MIDDLEWARE=[OURS]):
        by_wsgi("/ns/4711/")
        assert seen.route() == "ns:detail"
        by_wsgi("/api/v1/users/4711/")
        assert seen.route() == "v1:user-detail"


@pytest.mark.parametrize(
    ("route", "template"),
    [
        ("", "/"),
        ("shop/<int:pk>/", "/shop/<int:pk>/"),
        (r"^articles/(?P<year>[0-9]{4})/$", "/articles/<year>/"),
        (r"api/v1/users/(?P<pk>[^/.]+)/$", "/api/v1/users/<pk>/"),
        (r"api/v1/^users\.(?P<format>[a-z0-9]+)/?$", "/api/v1/users.<format>/"),
        (r"shop/<slug:s>/old/(?P<y>[0-9]{4})/$", "/shop/<slug:s>/old/<y>/"),
        (r"^(?:page-(?P<n>\d+)/)?$", "/page-<n>/"),
        (r"^x/(\d+)/(\w+)\Z", "/x/<var>/<var>"),
        (r"^a\-b/((?P<q>x(y)))/?$", "/a-b/<var>/"),
        (r"files/.*$", "/files/*"),
        (r"(?i)x[]a]+/\d{2,3}/", "/x*/*/"),
        (r"^(?P<path>[()\]]+)$", "/<path>"),
        (r"broken(", "/broken<var>"),
        (r"broken[", "/broken*"),
        ("broken\\", "/broken"),
        ("ünï/<str:x>/", "/ünï/<str:x>/"),
    ],
)
def test_regexes_are_made_readable(route: str, template: str) -> None:
    assert readable(route) == template
