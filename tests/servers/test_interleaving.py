"""Two routes that interleave: at least 99 % of each route's CPU time stands under its own route.

In each case both requests are inside at once, many times over, and hand work to tasks, executors,
threads or greenlets; the functions that burn are different, so the truth is in the stacks.
"""

from __future__ import annotations

import pytest
from support.process import run_script

HEAD = """
import asyncio, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from conprof_core import testing

def burn_a(seconds=0.004):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(50))

def burn_b(seconds=0.004):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(50))

met = {"a": 0, "b": 0, "both": 0}

def enter(name):
    met[name] += 1
    if met["a"] and met["b"]:
        met["both"] += 1

def leave(name):
    met[name] -= 1

def report(captured):
    assert met["both"] > 10, f"the requests did not interleave: {met}"
    for name in ("a", "b"):
        function, route = f"burn_{name}", PATTERN.format(name)
        all_of_it = captured.cpu_ns(function)
        own = captured.cpu_ns(function, **{"http.route": route})
        assert all_of_it > 0.3e9, (name, all_of_it)
        print(name, own / all_of_it)

async def handle(name, burn):
    loop = asyncio.get_running_loop()
    enter(name)
    for _ in range(3):
        await asyncio.sleep(0)
        burn()
        await asyncio.gather(
            asyncio.create_task(step(burn)),
            asyncio.to_thread(burn),
            loop.run_in_executor(None, burn),
        )
    leave(name)

async def step(burn):
    for _ in range(2):
        burn(0.002)
        await asyncio.sleep(0)

async def asgi(app, path):
    messages = [{"type": "http.request", "body": b"", "more_body": False}]
    async def receive():
        return messages.pop() if messages else await asyncio.sleep(3600)
    async def send(message):
        if message["type"] == "http.response.start":
            assert message["status"] == 200, message
    await app({"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b"",
               "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http",
               "server": ("x", 80), "client": ("x", 1), "root_path": ""}, receive, send)

async def both(app):
    for _ in range(8):
        await asyncio.gather(*(asgi(app, f"/{name}/{i}") for name in "ab" for i in (1, 2)))

def wsgi(app, path):
    import io
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "SERVER_NAME": "x", "SERVER_PORT": "80",
               "wsgi.input": io.BytesIO(), "wsgi.errors": sys.stderr, "wsgi.url_scheme": "http",
               "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.version": (1, 0), "wsgi.multithread": True,
               "wsgi.multiprocess": False, "wsgi.run_once": False}
    statuses = []
    body = app(environ, lambda status, headers, exc_info=None: statuses.append(status))
    list(body)
    getattr(body, "close", lambda: None)()
    assert statuses[0].startswith("200"), statuses
"""

FASTAPI = """
PATTERN = "/{}/{{item}}"
from fastapi import APIRouter, FastAPI
from conprof_asgi import ConprofMiddleware
app, router = FastAPI(), APIRouter()

@router.get("/a/{item}")
async def a(item: int):
    await handle("a", burn_a)

@router.get("/b/{item}")
async def b(item: int):
    await handle("b", burn_b)

app.include_router(router)
app.add_middleware(ConprofMiddleware)
with testing.capture(cpu_profile_rate=250) as captured:
    asyncio.run(both(app))
report(captured)
"""

DJANGO = """
PATTERN = "/{}/<int:item>"
from django.conf import settings
settings.configure(SECRET_KEY="x", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"],
                   INSTALLED_APPS=["conprof_django"], MIDDLEWARE=[])
import django
django.setup()
from django.http import HttpResponse
from django.urls import path

async def a(request, item):
    await handle("a", burn_a)
    return HttpResponse("")

async def b(request, item):
    await handle("b", burn_b)
    return HttpResponse("")

urlpatterns = [path("a/<int:item>", a), path("b/<int:item>", b)]
from django.core.handlers.asgi import ASGIHandler
with testing.capture(cpu_profile_rate=250) as captured:
    asyncio.run(both(ASGIHandler()))
report(captured)
"""

FLASK = """
PATTERN = "/{}/<int:item>"
from flask import Flask
from conprof_flask import Conprof
app = Flask("x")

def work(name, burn):
    enter(name)
    for _ in range(3):
        time.sleep(0.001)
        burn()
        HAND_ON(burn)
    leave(name)
    return ""

@app.get("/a/<int:item>")
def a(item):
    return work("a", burn_a)

@app.get("/b/<int:item>")
def b(item):
    return work("b", burn_b)

Conprof(app)
"""

FLASK_THREADS = (
    FLASK
    + """
pool = ThreadPoolExecutor(3)

def HAND_ON(burn):
    thread = threading.Thread(target=burn)
    thread.start()
    future = pool.submit(burn)
    thread.join()
    future.result()

with testing.capture(cpu_profile_rate=250) as captured:
    for _ in range(8):
        paths = [f"/{name}/{i}" for name in "ab" for i in (1, 2)]
        threads = [threading.Thread(target=wsgi, args=(app, path)) for path in paths]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    pool.shutdown()
report(captured)
"""
)

FLASK_GEVENT = (
    "from gevent import monkey; monkey.patch_all()\n"
    + HEAD
    + FLASK
    + """
import gevent
from gevent.pool import Pool
pool = Pool(4)

def HAND_ON(burn):
    gevent.joinall([gevent.spawn(burn), pool.spawn(burn)])
    gevent.get_hub().threadpool.apply(burn)

with testing.capture(cpu_profile_rate=250) as captured:
    for _ in range(8):
        gevent.joinall([gevent.spawn(wsgi, app, f"/{n}/{i}") for n in "ab" for i in (1, 2)])
report(captured)
"""
)

CASES = {
    "fastapi": HEAD + FASTAPI,
    "django": HEAD + DJANGO,
    "flask-threads": HEAD + FLASK_THREADS,
    "flask-gevent": FLASK_GEVENT,
}


@pytest.mark.parametrize("case", CASES)
def test_each_route_keeps_its_own(case: str) -> None:
    pytest.importorskip(case.partition("-")[0])
    if case == "flask-gevent":
        pytest.importorskip("gevent")
    result = run_script(CASES[case])
    shares = dict(line.split() for line in result.stdout.splitlines())
    assert float(shares["a"]) >= 0.99, result.stdout
    assert float(shares["b"]) >= 0.99, result.stdout
