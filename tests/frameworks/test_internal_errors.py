"""An exception in any step of an adapter: the application answers what it answers without us."""

from __future__ import annotations

import pytest
from support.injector import INJECTOR
from support.process import run_script

FLASK = """
from flask import Flask, Response
from conprof_flask import Conprof

def make():
    app = Flask("shop")
    app.logger.disabled = True
    @app.get("/items/<int:number>")
    def item(number):
        return f"item {number}"
    @app.get("/fails")
    def fails():
        raise ValueError("theirs")
    @app.get("/stream")
    def stream():
        return Response(iter(["a", "b"]))
    Conprof(app, **OPTIONS)
    def ask(path):
        answer = app.test_client().get(path)
        return answer.status_code, answer.text
    return ask
"""

DJANGO = """
from django.conf import settings
settings.configure(
    ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], INSTALLED_APPS=["conprof_django"], SECRET_KEY="x",
    CONPROF=OPTIONS, LOGGING_CONFIG=None,
)
import django
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path
def item(request, number):
    return HttpResponse(f"item {number}")
def fails(request):
    raise ValueError("theirs")
def stream(request):
    return StreamingHttpResponse(iter(["a", "b"]))
urlpatterns = [path("items/<int:number>", item), path("fails", fails), path("stream", stream)]
django.setup()
import logging
logging.getLogger("django").disabled = True
from django.test import Client

def make():
    client = Client(raise_request_exception=False)
    def ask(path):
        answer = client.get(path)
        return answer.status_code, b"".join(answer).decode()
    return ask
"""

ASGI = """
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route
from conprof_asgi import ConprofMiddleware
async def item(request):
    return PlainTextResponse(f"item {request.path_params['number']}")
async def fails(request):
    raise ValueError("theirs")
async def stream(request):
    return StreamingResponse(iter(["a", "b"]))
import asyncio
loop = asyncio.new_event_loop()

def make():
    app = Starlette(
        routes=[
            Route("/items/{number:int}", item), Route("/fails", fails), Route("/stream", stream),
            Mount("/below", routes=[Route("/items/{number:int}", item)]),
        ],
        middleware=[Middleware(ConprofMiddleware, **OPTIONS)],
    )
    def ask(path):
        sent, taken = [], []
        scope = {
            "type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [],
            "root_path": "", "http_version": "1.1", "scheme": "http",
        }
        async def receive():
            if taken:
                await asyncio.sleep(60)  # until it is cancelled: the client stays
            taken.append(True)
            return {"type": "http.request", "body": b"", "more_body": False}
        async def send(message):
            sent.append(message)
        try:
            loop.run_until_complete(app(scope, receive, send))
        except ValueError as error:
            assert str(error) == "theirs"
        status = next(one["status"] for one in sent if one["type"] == "http.response.start")
        return status, b"".join(one.get("body", b"") for one in sent).decode()
    return ask
"""

SCRIPT = """
PATHS = ("/items/7", "/nowhere", "/fails", "/stream", "/below/items/7")
conprof.start(**OPTIONS)
ask = make()
truth = [ask(path) for path in PATHS]
assert [status for status, _ in truth][:4] == [200, 404, 500, 200], truth
for is_first in (True, False):
    step = counted = 0
    while True:
        step += 1
        if is_first:
            ask = make()
            conprof.stop()  # the first request starts it
        inject = Inject(step)
        before = dict(_log.internal_errors)
        sys.setprofile(inject)
        try:
            answers = [ask(path) for path in PATHS]
        finally:
            sys.setprofile(None)
        assert answers == truth, (step, inject.where, answers)
        if inject.where is None:
            break
        counted += _log.internal_errors != before
    assert step > 20 and counted > step / 3, (step, counted)
conprof.stop()
"""


@pytest.mark.parametrize("adapter", [FLASK, DJANGO, ASGI], ids=["flask", "django", "asgi"])
def test_an_error_in_any_step(native_engine: None, adapter: str) -> None:
    options = 'OPTIONS = dict(export_to="none:", application_name="shop")\n'
    run_script(
        INJECTOR + options + adapter + SCRIPT,
        options=("-W", "ignore"),
        env={"CONPROF_ENGINE": "native"},
    )
