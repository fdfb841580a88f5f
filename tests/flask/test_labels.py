"""Flask: which labels the code of a request wears, from the first middleware to the last chunk."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Blueprint, Flask, Response, abort, stream_with_context
from support.cells import Seen, labels_here
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client, EnvironBuilder

import conprof_core
from conprof_core import testing
from conprof_flask import Conprof

seen = Seen()


@pytest.fixture(autouse=True)
def profiling() -> Iterator[testing.Captured]:
    seen.__init__()  # type: ignore[misc]
    with testing.capture() as captured:
        yield captured


def fetch(app: Flask, path: str, method: str = "GET") -> int:
    """Make a request as a server does, which closes what it has read."""
    with app.test_client().open(path, method=method, buffered=True) as response:
        return response.status_code


def make_app() -> Flask:
    app = Flask("shop")

    @app.get("/items/<int:item>")
    def item(item: int) -> str:
        seen.note()
        return "one"

    @app.post("/items/<int:item>")
    def change(item: int) -> tuple[str, int]:
        seen.note()
        return "made", 201

    @app.get("/")
    def home() -> str:
        seen.note()
        return "home"

    @app.get("/tree/")
    def tree() -> str:
        return "tree"

    @app.get("/broken")
    def broken() -> str:
        seen.note()
        raise ZeroDivisionError

    @app.get("/gone/<name>")
    def gone(name: str) -> str:
        seen.note()
        abort(410)

    @app.get("/async/<name>")
    async def waits(name: str) -> str:
        seen.note()
        return name

    @app.get("/stream/<name>")
    def stream(name: str) -> Response:
        def body() -> Iterator[str]:
            for part in range(3):
                seen.note(f"chunk {part}")
                yield name

        return Response(stream_with_context(body()))

    inner = Blueprint("inner", __name__, url_prefix="/inner")
    outer = Blueprint("outer", __name__, url_prefix="/api/<tenant>")

    @inner.get("/x/<int:a>")
    def deep(tenant: str, a: int) -> str:
        seen.note()
        return tenant

    outer.register_blueprint(inner)
    app.register_blueprint(outer)

    @app.before_request
    def before() -> None:
        seen.note("before_request")

    @app.errorhandler(404)
    def missing(error: Exception) -> tuple[str, int]:
        seen.note("handler")
        return "no", 404

    @app.teardown_request
    def teardown(error: BaseException | None) -> None:
        seen.note("teardown")

    Conprof(app)
    return app


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/items/4711", "/items/<int:item>", "2xx"),
        ("POST", "/items/4711", "/items/<int:item>", "2xx"),
        ("HEAD", "/items/4711", "/items/<int:item>", "2xx"),
        ("GET", "/", "/", "2xx"),
        ("GET", "/api/acme/inner/x/4711", "/api/<tenant>/inner/x/<int:a>", "2xx"),
        ("GET", "/broken", "/broken", "5xx"),
        ("GET", "/gone/acme", "/gone/<name>", "4xx"),
        ("GET", "/async/acme", "/async/<name>", "2xx"),
        ("GET", "/static/none.css", "/static/<path:filename>", "4xx"),
        ("GET", "/nothing/4711", "<unmatched>", "4xx"),
        ("DELETE", "/items/4711", "<unmatched>", "4xx"),
        ("GET", "/tree", "<unmatched>", "3xx"),
    ],
)
def test_the_route_is_a_template(method: str, path: str, route: str, status: str) -> None:
    fetch(make_app(), path, method)
    name = "view" if "view" in seen else "before_request"
    assert seen.labels(name) == {
        "http.route": route,
        "http.request.method": method,
        "http.response.status_class": status,
    }


def test_what_runs_around_the_view_has_its_labels_too() -> None:
    fetch(make_app(), "/items/1")
    assert seen.route("before_request") == seen.route("teardown") == "/items/<int:item>"


def test_an_error_handler_of_a_404_is_unmatched() -> None:
    fetch(make_app(), "/none/4711")
    assert seen.route("handler") == "<unmatched>"


def test_a_made_up_method_is_no_label_of_its_own() -> None:
    fetch(make_app(), "/", "BREW4711")
    assert seen.labels("before_request")["http.request.method"] == "_OTHER"


def test_a_streamed_body_is_labelled_to_the_end_and_not_beyond() -> None:
    response = make_app().test_client().get("/stream/acme", buffered=False)
    parts = iter(response.response)
    next(parts)
    # The request is still open here, in this very context, as it is in a server.
    assert labels_here()["http.route"] == "/stream/<name>"
    list(parts)
    response.close()
    assert [seen.route(f"chunk {part}") for part in range(3)] == ["/stream/<name>"] * 3
    assert labels_here() == {}


def test_a_body_that_is_given_up_ends_the_request() -> None:
    response = make_app().test_client().get("/stream/acme", buffered=False)
    next(iter(response.response))
    response.close()
    assert labels_here() == {}
    assert "chunk 1" not in seen


def test_a_response_that_starts_with_its_body_has_its_route() -> None:
    app = Flask("shop")

    @app.get("/items/<int:item>")
    def item(item: int) -> str:
        seen.note()
        return "one"

    inner = app.wsgi_app

    def lazy(environ: Any, start_response: Any) -> Iterator[bytes]:
        yield from inner(environ, start_response)

    app.wsgi_app = lazy  # type: ignore[method-assign,assignment]
    Conprof(app)
    assert fetch(app, "/items/1") == 200
    assert seen.labels()["http.route"] == "/items/<int:item>"
    assert seen.labels()["http.response.status_class"] == "2xx"
    assert labels_here() == {}


def test_an_application_that_raises_ends_the_request() -> None:
    app = make_app()
    app.config["PROPAGATE_EXCEPTIONS"] = True
    with pytest.raises(ZeroDivisionError):
        app.test_client().get("/broken")
    assert seen.route() == "/broken"
    assert labels_here() == {}


class FileWrapper:
    """What a server offers for sendfile: it wants its own object back."""

    def __init__(self, file: Any, size: int = 8192) -> None:
        self.file = file

    def __iter__(self) -> Iterator[bytes]:
        yield self.file.read()

    def close(self) -> None:
        self.file.close()


def test_a_file_reaches_the_server_as_its_own_wrapper() -> None:
    app = make_app()
    app.add_url_rule("/file", view_func=lambda: __import__("flask").send_file(__file__))
    environ = EnvironBuilder(path="/file").get_environ()
    environ["wsgi.file_wrapper"] = FileWrapper
    body = app.wsgi_app(environ, lambda status, headers, exc_info=None: lambda data: None)
    assert type(body) is FileWrapper
    assert labels_here() == {}
    body.close()


def test_several_apps_in_a_process_behind_a_dispatcher() -> None:
    one, other = make_app(), Flask("other")

    @other.get("/deep/<x>")
    def deep(x: str) -> str:
        seen.note("other")
        return x

    Conprof(other)
    client = Client(DispatcherMiddleware(one.wsgi_app, {"/other": other.wsgi_app}))
    for path in ("/other/deep/4711", "/items/1"):
        with client.get(path, buffered=True) as response:
            assert response.status_code == 200
    assert seen.route("other") == "/deep/<x>"
    assert seen.route() == "/items/<int:item>"


def test_requests_in_threads_do_not_mix() -> None:
    app = make_app()
    gate = threading.Barrier(2, timeout=10)

    @app.get("/meet/<int:who>")
    def meet(who: int) -> str:
        gate.wait()  # both requests are inside at once
        seen.note(f"meet {who}")
        gate.wait()
        return ""

    @app.get("/also/<int:who>")
    def also(who: int) -> str:
        gate.wait()
        seen.note(f"also {who}")
        gate.wait()
        return ""

    threads = [threading.Thread(target=fetch, args=(app, path)) for path in ("/meet/1", "/also/2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert seen.route("meet 1") == "/meet/<int:who>"
    assert seen.route("also 2") == "/also/<int:who>"


def test_a_window_that_closes_during_a_request_knows_its_route() -> None:
    from conprof_core._scope import settle

    app = make_app()
    found: list[dict[str, str]] = []

    @app.get("/long/<int:item>")
    def long(item: int) -> str:
        settle()  # what happens before a window is taken
        found.append(labels_here())
        return ""

    fetch(app, "/long/1")
    assert found == [{"http.route": "/long/<int:item>", "http.request.method": "GET"}]


def test_the_upload_says_how_many_requests_a_route_served(profiling: testing.Captured) -> None:
    app = make_app()
    for number in range(7):
        assert fetch(app, f"/items/{number}") == 200
    assert fetch(app, "/nowhere") == 404
    assert conprof_core.flush()
    assert profiling.windows[0].requests == {"/items/<int:item>": 7, "<unmatched>": 1}
