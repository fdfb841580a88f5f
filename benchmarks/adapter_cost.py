"""CPU time of one request above the bare framework: ``python benchmarks/adapter_cost.py``.

The same application is called without a server, with and without the adapter, the profiler running
in both cases: what is shown is the adapter alone; what sampling costs is in the other benchmarks.

With and without run in two processes, whose slices alternate in random order on one processor, and
again in further pairs of processes. In one process they would share the framework's code, whose
inline caches know one application: a server has one. It is the CPU time of the thread that calls
the application: the clock of a process moves by whole ticks of the kernel while a timer runs on it,
as the engine's does.

Of Django under ASGI there are two figures. The whole handler starts a thread for each request and
hands to it twice, which is most of its time and varies by more than any adapter costs; so its
middleware chain and view are measured alone as well, where all that the adapter does is done.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import io
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import conprof_core

REQUESTS = 200  # of one slice
SLICES = 60  # of one process

Round = Callable[[], None]

URLS = "conprof_bench_urls"
MIDDLEWARE = "conprof_django.middleware.ConprofMiddleware"

SCOPE = {
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


def wsgi_round(app: Any) -> Round:
    """Return a function that makes the requests of one slice."""
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
    """Return a function that makes the requests of one slice, in one event loop."""

    async def main() -> None:
        for _ in range(REQUESTS):
            messages = [{"type": "http.request", "body": b"", "more_body": False}]

            async def receive(messages: list[Any] = messages) -> Any:
                return messages.pop() if messages else await asyncio.sleep(3600)

            async def send(message: Any) -> None:
                pass

            await app(dict(SCOPE), receive, send)

    loop = asyncio.new_event_loop()
    return lambda: loop.run_until_complete(main())


def flask(adapted: bool) -> Round:
    """Return a slice of requests to Flask."""
    from flask import Flask

    from conprof_flask import Conprof

    app = Flask("bench")
    app.add_url_rule("/items/<int:item>", view_func=lambda item: "ok", endpoint="item")
    if adapted:
        Conprof(app)
    return wsgi_round(app.wsgi_app)


def starlette(adapted: bool) -> Round:
    """Return a slice of requests to Starlette."""
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    from conprof_asgi import ConprofMiddleware

    async def item(request: Any) -> PlainTextResponse:
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/items/{item:int}", item)])
    return asgi_round(ConprofMiddleware(app) if adapted else app)


def set_up_django(view: Callable[..., Any], adapted: bool) -> None:
    """Configure Django for one view."""
    import django
    from django.conf import settings
    from django.urls import path

    urls: Any = type(sys)(URLS)
    urls.urlpatterns = [path("items/<int:item>", view)]
    sys.modules[URLS] = urls
    settings.configure(
        SECRET_KEY="x",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=URLS,
        MIDDLEWARE=[MIDDLEWARE] if adapted else [],
    )
    django.setup()


def django_wsgi(adapted: bool) -> Round:
    """Return a slice of requests to Django's WSGI handler."""
    from django.http import HttpResponse

    def item(request: Any, item: int) -> HttpResponse:
        return HttpResponse("ok")

    set_up_django(item, adapted)
    from django.core.handlers.wsgi import WSGIHandler

    return wsgi_round(WSGIHandler())


def django_asgi(adapted: bool) -> Round:
    """Return a slice of requests to Django's ASGI handler."""
    from django.http import HttpResponse

    async def item(request: Any, item: int) -> HttpResponse:
        return HttpResponse("ok")

    set_up_django(item, adapted)
    from django.core.handlers.asgi import ASGIHandler

    return asgi_round(ASGIHandler())


def django_chain(adapted: bool) -> Round:
    """Return a slice of requests to the middleware chain and the view of Django's ASGI handler."""
    from django.http import HttpResponse

    async def item(request: Any, item: int) -> HttpResponse:
        return HttpResponse("ok")

    set_up_django(item, adapted)
    from django.core.handlers.asgi import ASGIHandler, ASGIRequest

    handler = ASGIHandler()

    async def main() -> None:
        for _ in range(REQUESTS):
            response = await handler.get_response_async(ASGIRequest(dict(SCOPE), io.BytesIO()))
            assert response.status_code == 200, response

    loop = asyncio.new_event_loop()
    return lambda: loop.run_until_complete(main())


class Subject(NamedTuple):
    """What is measured.

    Attributes:
        name: as a person calls it.
        make: returns a slice of requests, to it with or without the adapter.
        limit: the goal in microseconds, or ``None`` where the figure is too uncertain for one.
    """

    name: str
    make: Callable[[bool], Round]
    limit: float | None


SUBJECTS = {
    "flask": Subject("Flask", flask, 5.0),
    "starlette": Subject("ASGI (Starlette)", starlette, 5.0),
    "django-wsgi": Subject("Django (WSGI)", django_wsgi, 10.0),
    "django-chain": Subject("Django (ASGI, its chain)", django_chain, 10.0),
    "django-asgi": Subject("Django (ASGI, whole)", django_asgi, None),
}


def serve(subject: Subject, adapted: bool) -> None:
    """Measure a slice for each line of standard input; prints CPU microseconds of one request."""
    run = subject.make(adapted)
    with tempfile.TemporaryDirectory() as directory:
        conprof_core.start(export_to=f"file://{directory}")
        assert conprof_core.stats()["engine"] == "native"
        run()
        gc.collect()
        gc.disable()
        for _ in sys.stdin:
            run()  # the other process had the caches
            began = time.thread_time()
            run()
            print((time.thread_time() - began) / REQUESTS * 1e6, flush=True)
            gc.collect()
        conprof_core.stop()


class Server:
    """A process that measures when it is asked."""

    def __init__(self, key: str, adapted: bool) -> None:
        command = [sys.executable, __file__, "--serve", key, *(["--adapted"] if adapted else [])]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def slice(self) -> float:
        """Return the CPU microseconds of one request in one more slice."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def end(self) -> None:
        """End the process."""
        self._process.communicate()
        assert self._process.returncode == 0


class Cost(NamedTuple):
    """CPU microseconds of one request.

    Attributes:
        bare: without the adapter.
        added: what the adapter adds: the mean over the pairs of processes.
        error: half of the 95 % interval of ``added``, from how much the pairs differ.
    """

    bare: float
    added: float
    error: float


def cost_of(key: str, pairs: int) -> Cost:
    """Measure pairs of processes."""
    bare, added = [], []
    for _ in range(pairs):
        servers = [Server(key, False), Server(key, True)]
        rounds = []
        for _ in range(SLICES):
            order = [0, 1]
            random.shuffle(order)
            times = {which: servers[which].slice() for which in order}
            rounds.append((times[0], times[1]))
        for server in servers:
            server.end()
        bare.append(statistics.median(one for one, _ in rounds))
        added.append(statistics.median(two - one for one, two in rounds))
    error = 1.96 * statistics.stdev(added) / pairs**0.5
    return Cost(statistics.median(bare), statistics.mean(added), error)


def main() -> None:
    """Measure and print; ends with 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("subjects", nargs="*", help=f"of {', '.join(SUBJECTS)}; all by default")
    parser.add_argument("--pairs", type=int, default=8, help="of processes, at least 2")
    parser.add_argument("--serve", choices=SUBJECTS, help=argparse.SUPPRESS)
    parser.add_argument("--adapted", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(SUBJECTS[options.serve], options.adapted)
        return
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # its children inherit it
    unknown = set(options.subjects) - set(SUBJECTS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(SUBJECTS)}")
    exceeded = False
    print(f"Python {sys.version.split()[0]}, {options.pairs} pairs of processes")
    print(f"{'':25}{'bare µs':>9}{'added µs':>10}{'±':>7}{'limit µs':>10}")
    for key in options.subjects or SUBJECTS:
        subject, cost = SUBJECTS[key], cost_of(key, options.pairs)
        exceeded |= subject.limit is not None and cost.added > subject.limit
        limit = "" if subject.limit is None else f"{subject.limit:.1f}"
        print(
            f"{subject.name:25}{cost.bare:9.1f}{cost.added:10.2f}{cost.error:7.2f}{limit:>10}",
            flush=True,
        )
    sys.exit(exceeded)


if __name__ == "__main__":
    main()
