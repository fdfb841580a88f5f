"""OpenTelemetry's own ASGI middleware and ours, in both orders, around FastAPI."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from conprof_asgi import ConprofMiddleware
from conprof_core.otel import ConprofSpanProcessor
from conprof_core.testing import Captured, capture


def burn(cpu_s: float) -> None:
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        sum(range(500))


order: list[str] = []


def application() -> FastAPI:
    """Two requests of one route that take turns, and one in a thread."""
    app = FastAPI()

    def turn_one() -> None:
        burn(0.012)

    def turn_two() -> None:
        burn(0.012)

    @app.get("/turns/{name}")
    async def turns(name: str) -> str:
        for _ in range(15):  # longer than two switch intervals: see test_traces
            order.append(name)
            turn_one() if name == "one" else turn_two()
            await asyncio.sleep(0)
        return name

    @app.get("/thread/{name}")
    def thread(name: str) -> str:
        burn(0.1)
        return name

    return app


def serve(app: Any, paths: list[str]) -> None:
    """Send requests at once."""

    async def main() -> None:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answers = await asyncio.gather(*(client.get(path) for path in paths))
            assert [answer.status_code for answer in answers] == [200] * len(paths)

    asyncio.run(main())


def found(captured: Captured, function: str) -> set[tuple[tuple[int, int] | None, str | None]]:
    """(ids, route) of the rows that have a function on their stack."""
    return {
        (row.trace, dict(row.labels).get("http.route"))
        for row in captured.rows
        if any(frame[0].endswith(function) for frame in row.frames)
    }


@pytest.mark.parametrize("outermost", ["tracer", "conprof"])
def test_requests_have_the_ids_of_their_server_spans(outermost: str) -> None:
    exported = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    provider.add_span_processor(ConprofSpanProcessor())
    app: Any = application()
    if outermost == "tracer":
        app = OpenTelemetryMiddleware(ConprofMiddleware(app), tracer_provider=provider)
    else:
        app = ConprofMiddleware(OpenTelemetryMiddleware(app, tracer_provider=provider))
    order.clear()
    with capture(cpu_profile_rate=1000, trace_ids="otel") as captured:
        serve(app, ["/turns/one", "/turns/two", "/thread/three"])
    changes = sum(one != other for one, other in itertools.pairwise(order))
    assert changes > 25, "premise: two requests took turns"
    servers = {}
    for span in exported.get_finished_spans():
        if span.parent is None:
            assert span.attributes is not None
            path = str(span.attributes.get("http.target") or span.attributes.get("url.path"))
            servers[path] = (span.context.trace_id, span.context.span_id)
    assert len(servers) == 3
    assert found(captured, "turn_one") == {(servers["/turns/one"], "/turns/{name}")}
    assert found(captured, "turn_two") == {(servers["/turns/two"], "/turns/{name}")}
    if captured.windows[0].tags["engine"] == "native":
        assert found(captured, "thread") == {(servers["/thread/three"], "/thread/{name}")}
