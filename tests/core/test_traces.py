"""Ids of root spans on samples: right under every kind of concurrency, gone when a span is over.

Every span here is made by OpenTelemetry's own SDK.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan as Remote
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, set_span_in_context
from support.pprof_reader import parse_file

from conprof_core import _labels, _log, labels, request_scope
from conprof_core._engine import Row
from conprof_core._labels import context_var
from conprof_core.otel import ConprofSpanProcessor
from conprof_core.testing import Captured, capture

from .conftest import burn

SERVER = SpanKind.SERVER
RATE: dict[str, Any] = {"cpu_profile_rate": 1000, "trace_ids": "otel"}


def tracer(**options: Any) -> Any:
    """A tracer whose provider has our processor."""
    provider = TracerProvider(**options)
    provider.add_span_processor(ConprofSpanProcessor())
    return provider.get_tracer("tests")


def ids(span: Any) -> tuple[int, int]:
    """What the rows of a span are expected to hold."""
    context = span.get_span_context()
    return (context.trace_id, context.span_id)


def traces(rows: Captured | Iterable[Row], function: str) -> dict[tuple[int, int] | None, int]:
    """Ids → samples of the rows that have a function on their stack, or in its qualified name."""
    found: dict[tuple[int, int] | None, int] = {}
    for row in rows.rows if isinstance(rows, Captured) else rows:
        # A thread that begins or ends runs no Python, is shown at its target, and has no context.
        if len(row.frames) > 1 and any(frame[0].endswith(function) for frame in row.frames):
            found[row.trace] = found.get(row.trace, 0) + row.samples
    return found


def test_two_interleaved_requests_of_one_route_have_their_own_ids(engine: str) -> None:
    """Their labels are equal, so nothing but the span tells them apart.

    A turn is longer than two switch intervals of the GIL: the portable engine, which waits one for
    it, would meet the same request again and again.
    """
    order: list[str] = []
    spans: dict[str, Any] = {}
    trace = tracer()

    async def request(name: str, work: Any) -> None:
        with request_scope({"http.request.method": "GET"}) as scope:
            with trace.start_as_current_span(name, kind=SERVER) as spans[name]:
                for _ in range(15):
                    order.append(name)
                    work()
                    await asyncio.sleep(0)
            scope.bind({"http.route": "/same"})

    def work_a() -> None:
        burn(0.012)

    def work_b() -> None:
        burn(0.012)

    async def both() -> None:
        await asyncio.gather(request("a", work_a), request("b", work_b))

    with capture(**RATE) as captured:
        asyncio.run(both())
    changes = sum(one != other for one, other in itertools.pairwise(order))
    assert changes > 25, "premise: they took turns"
    assert set(traces(captured, "work_a")) == {ids(spans["a"])}
    assert set(traces(captured, "work_b")) == {ids(spans["b"])}
    labelled = {row.labels for row in captured.rows if row.trace is not None}
    assert labelled == {(("http.request.method", "GET"), ("http.route", "/same"))}


def test_samples_before_the_span_get_its_ids_too(engine: str) -> None:
    """As when the middleware of the tracer stands inside of ours."""

    def before() -> None:
        burn(0.2)

    def within_labels() -> None:
        burn(0.2)

    with capture(**RATE) as captured, request_scope({}) as scope:
        before()
        with labels(step="one"):
            within_labels()
            with tracer().start_as_current_span("r", kind=SERVER) as span:
                burn(0.05)
        scope.bind({"http.route": "/x"})
    assert set(traces(captured, "within_labels")) == {ids(span)}
    # The span began inside labels(): only those are known to be its own.
    assert set(traces(captured, "before")) == {None}

    with capture(**RATE) as captured, request_scope({}) as scope:
        before()
        with labels(step="one"):
            within_labels()
        with tracer().start_as_current_span("r", kind=SERVER) as span:
            burn(0.05)
        scope.bind({"http.route": "/x"})
    assert set(traces(captured, "before")) == {ids(span)}


def test_labels_still_open_below_get_late_ids(engine: str) -> None:
    """A task of the request entered its own labels before the span began."""
    began = asyncio.Event()

    def in_the_task() -> None:
        burn(0.2)

    async def task() -> None:
        with labels(part="task"):
            in_the_task()
            began.set()
            await asyncio.sleep(0.05)
            in_the_task()

    async def main() -> Any:
        with request_scope({}) as scope:
            running = asyncio.create_task(task())
            await began.wait()
            with tracer().start_as_current_span("r", kind=SERVER) as span:
                await running
            scope.bind({"http.route": "/x"})
        return span

    with capture(**RATE) as captured:
        span = asyncio.run(main())
    assert set(traces(captured, "in_the_task")) == {ids(span)}


def test_the_ids_go_where_the_work_goes() -> None:
    """Child tasks, threads and pools; the portable engine cannot see into copied contexts."""

    def in_to_thread() -> None:
        burn(0.1)

    def in_pool() -> None:
        burn(0.1)

    def in_thread() -> None:
        burn(0.1)

    async def in_child() -> None:
        burn(0.1)

    def run_thread() -> None:
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()

    async def main() -> Any:
        with request_scope({}) as scope:
            with tracer().start_as_current_span("r", kind=SERVER) as span:
                await asyncio.to_thread(in_to_thread)
                await asyncio.get_running_loop().run_in_executor(None, in_pool)
                await asyncio.create_task(in_child())
                run_thread()
            scope.bind({"http.route": "/x"})
        return span

    with capture(**RATE) as captured:
        span = asyncio.run(main())
    if captured.windows[0].tags["engine"] != "native":
        pytest.skip("the portable engine sees no context of another thread")
    for function in ("in_to_thread", "in_pool", "in_child", "in_thread"):
        assert set(traces(captured, function)) == {ids(span)}, function


def test_nested_spans_are_part_of_their_root(engine: str) -> None:
    def in_child() -> None:
        burn(0.2)

    trace = tracer()
    with capture(**RATE) as captured, request_scope({}) as scope:
        with trace.start_as_current_span("r", kind=SERVER) as root:
            with trace.start_as_current_span("child") as child:
                in_child()
        scope.bind({})
    assert ids(child) != ids(root)
    assert set(traces(captured, "in_child")) == {ids(root)}


def test_a_root_span_outside_of_requests_has_its_ids_until_it_ends(engine: str) -> None:
    def before() -> None:
        burn(0.2)

    def during() -> None:
        burn(0.2)

    def after() -> None:
        burn(0.2)

    trace = tracer()
    with capture(**RATE) as captured, labels(job="import"):
        before()
        with trace.start_as_current_span("one") as one:
            during()
        after()
        with trace.start_as_current_span("two") as two:
            during()
        assert context_var.get() is not None
    assert set(traces(captured, "before")) == set(traces(captured, "after")) == {None}
    assert set(traces(captured, "during")) == {ids(one), ids(two)}
    assert {row.labels for row in captured.rows if row.trace is not None} == {(("job", "import"),)}
    assert context_var.get() is None


def test_a_span_ended_elsewhere_takes_its_ids_with_it() -> None:
    def after() -> None:
        burn(0.2)

    with capture(**RATE) as captured:
        span = tracer().start_span("message")
        with ThreadPoolExecutor(1) as pool:
            pool.submit(span.end).result()
        after()
        context_var.set(None)
    assert set(traces(captured, "after")) == {None}


def test_a_server_span_around_our_scope(engine: str) -> None:
    """As when the instrumentation is the outermost middleware; the caller is another process."""

    def view() -> None:
        burn(0.2)

    caller = SpanContext(0xA1 << 64 | 7, 5, is_remote=True, trace_flags=TraceFlags(1))
    parent = set_span_in_context(Remote(caller))
    trace = tracer()
    with capture(**RATE) as captured:
        with trace.start_as_current_span("r", context=parent, kind=SERVER) as span:
            with request_scope({"http.request.method": "GET"}) as scope:
                view()
                scope.bind({"http.route": "/x"})
            with labels(part="after"):
                pass
        assert context_var.get() is None
    assert ids(span)[0] == caller.trace_id
    assert set(traces(captured, "view")) == {ids(span)}
    (shown,) = {row.labels for row in captured.rows if row.trace is not None and row.labels}
    assert dict(shown) == {"http.request.method": "GET", "http.route": "/x"}


def test_a_request_that_the_sampler_left_out_has_no_ids(engine: str) -> None:
    def view() -> None:
        burn(0.2)

    trace = tracer(sampler=ALWAYS_OFF)
    with capture(**RATE) as captured, request_scope({}) as scope:
        with trace.start_as_current_span("r", kind=SERVER):
            view()
        scope.bind({})
    assert set(traces(captured, "view")) == {None}


def test_a_processor_added_twice_does_nothing_twice() -> None:
    provider = TracerProvider()
    provider.add_span_processor(ConprofSpanProcessor())
    provider.add_span_processor(ConprofSpanProcessor())
    with capture(**RATE):
        with provider.get_tracer("t").start_as_current_span("one"):
            assert context_var.get() is not None
        assert context_var.get() is None
        with request_scope({}) as scope:
            cell = context_var.get()
            with provider.get_tracer("t").start_as_current_span("two", kind=SERVER):
                assert context_var.get() is cell
            scope.bind({})


@pytest.mark.parametrize("export_to", ["pyroscope+http://127.0.0.1:9", "otlp+http://127.0.0.1:9"])
def test_spans_say_so_where_pyroscope_shows_them(export_to: str) -> None:
    trace = tracer()
    with capture(**RATE, export_to=export_to):
        with trace.start_as_current_span("r", kind=SERVER) as span:
            with trace.start_as_current_span("child") as child:
                pass
    wanted = {"pyroscope.profile.id": f"{ids(span)[1]:016x}"}
    assert dict(span.attributes) == (wanted if export_to.startswith("pyroscope") else {})
    assert dict(child.attributes) == {}


FORK = """
import contextvars, os, sys
from pathlib import Path
import conprof_core as conprof
from conprof_core.otel import ConprofSpanProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind
import time

directory = sys.argv[1]
provider = TracerProvider()
provider.add_span_processor(ConprofSpanProcessor())
trace = provider.get_tracer("t")

def request(name):
    with conprof.request_scope({"http.request.method": "GET"}) as scope:
        with trace.start_as_current_span("r", kind=SpanKind.SERVER) as span:
            until = time.thread_time() + 0.3
            while time.thread_time() < until:
                sum(range(500))
        scope.bind({"http.route": name})
    print(name, span.context.span_id, flush=True)

conprof.start(export_to="file://" + directory, trace_ids="otel", cpu_profile_rate=1000)
with trace.start_as_current_span("around the fork"):
    child = os.fork()
    contextvars.Context().run(request, "/child" if child == 0 else "/parent")
conprof.stop()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
"""


def test_a_forked_child_has_ids_of_its_own(tmp_path: Path) -> None:
    out = run(FORK, str(tmp_path))
    expected = dict(line.split() for line in out.splitlines())
    assert expected.keys() == {"/child", "/parent"}
    found = {
        (sample.labels["http.route"], sample.labels.get("local root span id"))
        for path in tmp_path.glob("*.pb.gz")
        for sample in parse_file(path).samples
        if "http.route" in sample.labels
    }
    assert found == set(expected.items())


def test_a_tracer_that_is_odd_breaks_no_span() -> None:
    """Whatever comes, the application's span begins and ends."""
    processor = ConprofSpanProcessor()
    before = _log.internal_errors.get("traces", 0)
    with capture(**RATE):
        odd = TracerProvider().get_tracer("t").start_span("x")
        odd._kind = None
        processor.on_start(odd)
        processor.on_end(odd)
    assert _log.internal_errors["traces"] == before + 1
    _log.forget_internal_errors()
    assert processor.force_flush()


def test_spans_that_never_end_are_forgotten() -> None:
    from conprof_core import _traces

    trace = tracer()
    with capture(**RATE):
        for _ in range(_traces._MAX_OPEN + 100):
            trace.start_span("lost")
        assert len(_traces._open) == _traces._MAX_OPEN
        context_var.set(None)
    assert not _traces._open


def test_off_is_off() -> None:
    trace = tracer()
    with capture(cpu_profile_rate=1000) as captured:
        assert _labels.read_trace is None
        with request_scope({}) as scope:
            with trace.start_as_current_span("r", kind=SERVER):
                burn(0.1)
                cell = context_var.get()
                assert cell is not None
                assert cell.trace is None
            scope.bind({})
        with trace.start_as_current_span("alone"):
            assert context_var.get() is None
    assert traces(captured, "burn").keys() == {None}


def run(program: str, *arguments: str, **environ: str) -> str:
    """Run a program in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_is_imported_when_off() -> None:
    out = run(
        "import sys; from conprof_core.testing import capture\n"
        "with capture(): pass\n"
        "print([m for m in sys.modules if 'conprof_core._traces' in m or 'opentelemetry' in m])"
    )
    assert out.strip() == "[]"


LATE_PROVIDER = """
import sys
from conprof_core import request_scope, labels
from conprof_core._labels import context_var
from conprof_core.testing import capture
with capture(cpu_profile_rate=1000):
    with request_scope({}) as scope:
        scope.bind({})
    assert not any("opentelemetry" in name for name in sys.modules)
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    with labels(too="early"):
        pass
    provider = TracerProvider()
    trace.set_tracer_provider(provider)
    for _ in range(2):
        with request_scope({}) as scope:
            with trace.get_tracer("t").start_as_current_span("r", kind=trace.SpanKind.SERVER) as s:
                cell = context_var.get()
                print(cell.trace == (s.context.trace_id >> 64, s.context.trace_id % 2**64,
                                     s.context.span_id))
            scope.bind({})
print(len(provider._active_span_processor._span_processors))
with capture():
    with trace.get_tracer("t").start_as_current_span("r"):
        print(context_var.get() is not None)
print(len(provider._active_span_processor._span_processors))
"""


@pytest.mark.parametrize("source", ["otel", "auto"])
def test_the_provider_is_found_when_there_is_one(source: str) -> None:
    """No provider at the start; later one, which gets our processor once in two sessions."""
    out = run(LATE_PROVIDER, CONPROF_TRACE_IDS=source)
    assert out.split() == ["True", "True", "1", "True", "1"]
