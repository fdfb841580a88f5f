"""What ids of traces cost: ``python benchmarks/trace_ids.py``.

Two questions. A request: the scope of one (begin, bind, end) with ``trace_ids`` off and on, and
what our span processor adds to a server span of OpenTelemetry's SDK; slices take turns, the
smallest is shown. A window: 4500 samples, as many as a core that is always busy gives, each of a
request of its own, of 500 stacks of 20 to 40 frames; encoded with the ids, and merged without.
"""

from __future__ import annotations

import gzip
import random
import time
from collections.abc import Callable

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind

from conprof_core import Profiler, label_set, request_scope
from conprof_core._engine import Row
from conprof_core._otlp import encode_request
from conprof_core._pprof import encode_profile
from conprof_core.exporters import naming
from conprof_core.otel import ConprofSpanProcessor
from conprof_core.testing import MemoryExporter

REQUESTS = 5_000  # of one slice
ROUNDS = 15
SAMPLES = 4_500
STACKS = 500

BASE = label_set({"http.request.method": "GET"})
BOUND = label_set({"http.request.method": "GET", "http.route": "/x"})


def scope() -> None:
    """Enter, bind and leave."""
    with request_scope(BASE) as entered:
        entered.bind(BOUND)


def with_span(provider: TracerProvider) -> Callable[[], None]:
    """Return the same with a server span of a provider in it."""
    tracer = provider.get_tracer("benchmark")

    def run() -> None:
        with request_scope(BASE) as entered:
            with tracer.start_as_current_span("r", kind=SpanKind.SERVER):
                pass
            entered.bind(BOUND)

    return run


def slice_us(source: str, run: Callable[[], None]) -> float:
    """Return microseconds of CPU of one call."""
    profiler = Profiler(trace_ids=source, period=3600, exporters=[MemoryExporter()])
    profiler.start()
    began = time.thread_time()
    for _ in range(REQUESTS):
        run()
    used = time.thread_time() - began
    profiler.stop()
    return used / REQUESTS * 1e6


def requests() -> None:
    """Print what a request costs."""
    plain, ours = TracerProvider(), TracerProvider()
    ours.add_span_processor(ConprofSpanProcessor())
    cases = {
        "scope, trace_ids off": ("off", scope),
        "scope, trace_ids=otel, no provider yet": ("otel", scope),
        "scope and span, trace_ids off": ("off", with_span(plain)),
        "scope and span, trace_ids=otel": ("otel", with_span(ours)),
    }
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(ROUNDS):
        for name, (source, run) in cases.items():
            best[name] = min(best[name], slice_us(source, run))
    for name, cost in best.items():
        print(f"{name:42} {cost:6.2f} µs")


def rows() -> list[Row]:
    """Return a window of requests that were sampled once each."""
    draw = random.Random(1)
    frames = [
        (f"Handler{n % 40}.method_{n}", f"/srv/app/module_{n % 60}.py", n * 7 % 900 + 1, n % 900)
        for n in range(400)
    ]
    stacks = [tuple(draw.choices(frames, k=draw.randint(20, 40))) for _ in range(STACKS)]
    chosen = [draw.randrange(STACKS) for _ in range(SAMPLES)]
    return [
        Row(
            stacks[number],
            (("http.request.method", "GET"), ("http.route", f"/route/{number % 8}")),
            "",
            samples=1,
            cpu_ns=10_000_000,
            trace=(draw.getrandbits(128), draw.getrandbits(64) | 1),
        )
        for number in chosen
    ]


def encoded(window: list[Row], names: naming.Naming) -> int:
    """Return the size of a window on the wire."""
    if names.otlp is not None:
        content = encode_request(
            window, names, start_ns=1, end_ns=2, resource=b"", version="1", profile_id=bytes(16)
        )
    else:
        content = encode_profile(
            window, names.shapes[0], names, start_ns=1, end_ns=2, mapping_file="python"
        )
    assert content is not None
    return len(gzip.compress(content, 1))


def windows() -> None:
    """Print what a window weighs."""
    window = rows()
    for name in ("blackfire", "go", "pyroscope", "otlp"):
        names = getattr(naming, name)()._replace(max_samples=0)
        ids = encoded(window, names)
        merged = encoded(window, names._replace(spans=naming.SpanLabels()))
        each = (ids - merged) / SAMPLES
        print(
            f"{name:10} {ids / 1e3:4.0f} kB with, {merged / 1e3:3.0f} kB without: {each:.0f} B each"
        )


if __name__ == "__main__":
    requests()
    windows()
