"""Serves one profiled application: ``target.py flask|starlette|django|django-asgi``.

What is profiled is what the environment says. ``READY`` with the port comes when it listens;
``/stop`` ends it, and it prints the CPU time that it used.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from typing import Any

stopped = threading.Event()
kept: list[list[bytes]] = []


def burn(milliseconds: int) -> str:
    """Use CPU time, the work that profiles must show."""
    until = time.thread_time() + milliseconds / 1000
    while time.thread_time() < until:
        sum(range(500))
    return str(time.process_time_ns())


def allocate(kilobytes: int) -> str:
    """Allocate as much, and keep it."""
    kept.append([bytes(1024 * 20) for _ in range(kilobytes // 20)])
    return str(len(kept))


def wait_for_the_lock(lock: threading.Lock) -> None:
    """Wait for a lock that nobody gives back, as long as the process serves."""
    lock.acquire(timeout=3600)


def flask_app() -> Any:
    """A Flask application."""
    from flask import Flask

    from conprof_flask import Conprof

    app = Flask("target")
    Conprof(app)
    app.add_url_rule("/burn/<int:milliseconds>", view_func=burn)
    app.add_url_rule("/allocate/<int:kilobytes>", view_func=allocate)
    app.add_url_rule("/stop", view_func=lambda: str(stopped.set()), endpoint="stop")
    return app


def starlette_app() -> Any:
    """A Starlette application."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    from conprof_asgi import ConprofMiddleware

    def view(function: Any, name: str) -> Any:
        # Not a coroutine: in a thread of the pool.
        def endpoint(request: Request) -> PlainTextResponse:
            return PlainTextResponse(function(request.path_params[name]))

        return endpoint

    app = Starlette(
        routes=[
            Route("/burn/{milliseconds:int}", view(burn, "milliseconds")),
            Route("/allocate/{kilobytes:int}", view(allocate, "kilobytes")),
            Route("/stop", lambda request: PlainTextResponse(str(stopped.set()))),
        ]
    )
    app.add_middleware(ConprofMiddleware)
    return app


def configure_django() -> None:
    """A Django project in this module."""
    import django
    from django.conf import settings

    settings.configure(
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="tests",
        ROOT_URLCONF=__name__,
        INSTALLED_APPS=["conprof_django"],
        MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
        DATABASES={},
    )
    django.setup()
    from django.http import HttpResponse
    from django.urls import path

    globals()["urlpatterns"] = [
        path("burn/<int:n>", lambda request, n: HttpResponse(burn(n))),
        path("allocate/<int:n>", lambda request, n: HttpResponse(allocate(n))),
        path("stop", lambda request: HttpResponse(str(stopped.set()))),
    ]


def django_app(*, is_async: bool) -> Any:
    """The handler of the project."""
    configure_django()
    from django.core.handlers.asgi import ASGIHandler
    from django.core.handlers.wsgi import WSGIHandler

    return ASGIHandler() if is_async else WSGIHandler()


def serve_wsgi(app: Any) -> None:
    """Serve with werkzeug, a thread for each request."""
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("READY", server.port)
    stopped.wait()
    server.shutdown()


def serve_asgi(app: Any) -> None:
    """Serve with uvicorn."""
    import uvicorn

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True).start()
    print("READY", listener.getsockname()[1])
    stopped.wait()
    server.should_exit = True


if __name__ == "__main__":
    kind = sys.argv[1]
    held = threading.Lock()
    held.acquire()
    threading.Thread(target=wait_for_the_lock, args=(held,), daemon=True).start()
    if kind == "flask":
        serve_wsgi(flask_app())
    elif kind == "starlette":
        serve_asgi(starlette_app())
    elif kind == "django":
        serve_wsgi(django_app(is_async=False))
    else:
        serve_asgi(django_app(is_async=True))
    import conprof_core

    conprof_core.stop()
    print("CPU", time.process_time_ns())
    sys.stdout.flush()
    os._exit(0)  # servers' threads are not waited for
