"""CPU time of one request above the bare framework: ``python benchmarks/adapter_cost.py``.

The same application is called in this process, without a server, with and without the adapter, the
profiler running in both cases, in short slices in random order. So what is shown is the adapter
alone; what sampling costs is in the other benchmarks. It is the CPU time of the thread that calls
the application: the clock of a process moves by whole ticks of the kernel while a timer runs on it,
as the engine's does.

A slice that is measured follows one of the same kind. Both applications run the same framework
code, whose inline caches know the types that came last; a server has one application only.
"""

from __future__ import annotations

import asyncio
import gc
import io
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import conprof_core

REQUESTS = 200  # of one slice
SLICES = 120
LIMITS_US = {"Flask": 5.0, "ASGI (Starlette)": 5.0, "Django (WSGI)": 10.0, "Django (ASGI)": 10.0}

Round = Callable[[], None]


def wsgi_round(app: Any) -> Round:
    """Return a function that makes the requests of one round."""
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/items/4711",
        "SERVER_NAME": "x",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.input": io.BytesIO(),
    }

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        assert status[0] == "2", status

    def run() -> None:
        for _ in range(REQUESTS):
            body = app(dict(environ), start_response)
            for _part in body:
                pass
            close = getattr(body, "close", None)
            if close is not None:
                close()

    return run


def asgi_round(app: Any) -> Round:
    """Return a function that makes the requests of one round, in one event loop."""
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/items/4711",
        "root_path": "",
        "headers": [],
        "query_string": b"",
        "http_version": "1.1",
        "scheme": "http",
        "server": ("x", 80),
        "client": ("x", 1),
    }

    async def main() -> None:
        for _ in range(REQUESTS):
            messages = [{"type": "http.request", "body": b"", "more_body": False}]

            async def receive(messages: list[Any] = messages) -> Any:
                return messages.pop() if messages else await asyncio.sleep(3600)

            async def send(message: Any) -> None:
                pass

            await app(dict(scope), receive, send)

    loop = asyncio.new_event_loop()
    return lambda: loop.run_until_complete(main())


def flask_pair() -> tuple[Round, Round]:
    """Return the round without and with the adapter."""
    from flask import Flask

    from conprof_flask import Conprof

    def make() -> Flask:
        app = Flask("bench")
        app.add_url_rule("/items/<int:item>", view_func=lambda item: "ok", endpoint="item")
        return app

    bare, adapted = make(), make()
    Conprof(adapted)
    return wsgi_round(bare.wsgi_app), wsgi_round(adapted.wsgi_app)


def starlette_pair() -> tuple[Round, Round]:
    """Return the round without and with the adapter."""
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    from conprof_asgi import ConprofMiddleware

    async def item(request: Any) -> PlainTextResponse:
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/items/{item:int}", item)])
    return asgi_round(app), asgi_round(ConprofMiddleware(app))


def django_pairs() -> tuple[tuple[Round, Round], tuple[Round, Round]]:
    """Return the pairs for WSGI and ASGI."""
    import django
    from django.conf import settings
    from django.core.handlers.asgi import ASGIHandler
    from django.core.handlers.wsgi import WSGIHandler
    from django.http import HttpResponse
    from django.urls import path

    def item(request: Any, item: int) -> HttpResponse:
        return HttpResponse("ok")

    async def aitem(request: Any, item: int) -> HttpResponse:
        return HttpResponse("ok")

    sync_urls = type(sys)("bench_sync_urls")
    sync_urls.urlpatterns = [path("items/<int:item>", item)]  # type: ignore[attr-defined]
    async_urls = type(sys)("bench_async_urls")
    async_urls.urlpatterns = [path("items/<int:item>", aitem)]  # type: ignore[attr-defined]
    sys.modules.update(bench_sync_urls=sync_urls, bench_async_urls=async_urls)
    settings.configure(
        SECRET_KEY="x", ALLOWED_HOSTS=["*"], ROOT_URLCONF="bench_sync_urls", MIDDLEWARE=[]
    )
    django.setup()
    middleware = ["conprof_django.middleware.ConprofMiddleware"]
    handlers: list[tuple[Any, Any]] = []
    for kind in (WSGIHandler, ASGIHandler):
        settings.MIDDLEWARE = []
        bare = kind()
        settings.MIDDLEWARE = middleware
        handlers.append((bare, kind()))

    def using(urls: str, run: Round) -> Round:
        def wrapped() -> None:
            from django.urls import set_urlconf

            settings.ROOT_URLCONF = urls
            set_urlconf(None)
            run()

        return wrapped

    (wsgi, wsgi_ours), (asgi, asgi_ours) = handlers
    return (
        (
            using("bench_sync_urls", wsgi_round(wsgi)),
            using("bench_sync_urls", wsgi_round(wsgi_ours)),
        ),
        (
            using("bench_async_urls", asgi_round(asgi)),
            using("bench_async_urls", asgi_round(asgi_ours)),
        ),
    )


class Cost(NamedTuple):
    """CPU microseconds of one request.

    Attributes:
        bare: without the adapter.
        added: what the adapter adds: the median over all pairs of slices.
        noise: the same between slices that are both bare.
    """

    bare: float
    added: float
    noise: float


def cost_of(bare: Round, adapted: Round) -> Cost:
    """Measure slices of both kinds, and of the bare one twice, in random order."""
    added, noise, all_bare = [], [], []
    gc.collect()
    gc.disable()
    for _ in range(SLICES):
        slices = [("bare", bare), ("again", bare), ("adapted", adapted)]
        random.shuffle(slices)
        times = {name: slice_of(run) for name, run in slices}
        added.append(times["adapted"] - (times["bare"] + times["again"]) / 2)
        noise.append(times["again"] - times["bare"])
        all_bare.append(times["bare"])
        gc.collect()
    gc.enable()
    return Cost(statistics.median(all_bare), statistics.median(added), statistics.median(noise))


def slice_of(run: Round) -> float:
    """Return the CPU microseconds of one request."""
    run()
    began = time.thread_time()
    run()
    return (time.thread_time() - began) / REQUESTS * 1e6


def main() -> None:
    """Measure and print; ends with 1 if a limit is exceeded."""
    wsgi, asgi = django_pairs()
    pairs = {
        "Flask": flask_pair(),
        "ASGI (Starlette)": starlette_pair(),
        "Django (WSGI)": wsgi,
        "Django (ASGI)": asgi,
    }
    exceeded = False
    with tempfile.TemporaryDirectory() as directory:
        conprof_core.start(export_to=f"file://{directory}")
        print(f"{conprof_core.stats()['engine']} engine, Python {sys.version.split()[0]}")
        print(f"{'':18}{'bare µs':>9}{'added µs':>10}{'bare-bare':>11}{'limit µs':>10}")
        for name, (bare, adapted) in pairs.items():
            cost, limit = cost_of(bare, adapted), LIMITS_US[name]
            exceeded |= cost.added > limit
            print(f"{name:18}{cost.bare:9.1f}{cost.added:10.2f}{cost.noise:11.2f}{limit:10.1f}")
        conprof_core.stop()
    sys.exit(exceeded)


if __name__ == "__main__":
    main()
