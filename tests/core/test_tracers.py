"""ddtrace and Sentry, the real ones, each in a process of its own: they patch what they please."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

REQUESTS = """
import asyncio, json, time
from conprof_core import labels, request_scope
from conprof_core._labels import context_var
from conprof_core.testing import capture

order = []

def burn():
    until = time.thread_time() + 0.012  # two switch intervals: see test_traces
    while time.thread_time() < until:
        sum(range(500))

def turn_a():
    burn()

def turn_b():
    burn()

def in_child():
    burn()

def alone():
    burn()

async def request(name, turn):
    with root_span(name) as ids:
        with request_scope({"http.request.method": "GET"}) as scope:
            for _ in range(15):
                order.append(name)
                turn()
                with child_span("inner"):
                    in_child() if name == "a" else None
                await asyncio.sleep(0)
            scope.bind({"http.route": "/same"})
    return ids

async def main():
    return await asyncio.gather(request("a", turn_a), request("b", turn_b))

with capture(cpu_profile_rate=1000) as captured:
    found = asyncio.run(main())
    with request_scope({}) as scope:
        for _ in range(30):
            alone()
        scope.bind({})
    with root_span("job") as job:
        with labels(job="x"):
            labelled = context_var.get().trace
    left = context_var.get()

def traces(function):
    return sorted({repr(row.trace) for row in captured.rows
                   if any(frame[0].endswith(function) for frame in row.frames)})

print(json.dumps({
    "changes": sum(one != other for one, other in zip(order, order[1:])),
    "a": traces("turn_a") == [repr(found[0])],
    "b": traces("turn_b") == [repr(found[1])],
    "child": traces("in_child") == [repr(found[0])],
    "alone": traces("alone"),
    "job": (labelled[0] << 64 | labelled[1], labelled[2]) == job,
    "left": left is None,
}))
"""

SENTRY = """
from contextlib import contextmanager
import sentry_sdk
sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", traces_sample_rate=1.0,
                default_integrations=False, transport=lambda *_: None)

@contextmanager
def root_span(name):
    with sentry_sdk.isolation_scope():
        with sentry_sdk.start_transaction(name=name, op="http.server") as root:
            yield (int(root.trace_id, 16), int(root.span_id, 16))

child_span = lambda name: sentry_sdk.start_span(name=name, op="child")
"""

DDTRACE = """
from contextlib import contextmanager
from ddtrace.trace import tracer

@contextmanager
def root_span(name):
    with tracer.trace(name, span_type="web") as span:
        yield (span.trace_id, span.span_id)

child_span = tracer.trace
"""

QUIET = {
    "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
    "DD_REMOTE_CONFIGURATION_ENABLED": "false",
    "DD_TRACE_AGENT_URL": "http://127.0.0.1:9",
    "DD_TRACE_STARTUP_LOGS": "false",
    "DD_CRASHTRACKING_ENABLED": "false",
}


def observe(program: str, source: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **QUIET, "CONPROF_TRACE_IDS": source},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("source", ["named", "auto"])
@pytest.mark.parametrize(
    ("package", "name", "setup"),
    [("sentry_sdk", "sentry", SENTRY), ("ddtrace", "ddtrace", DDTRACE)],
)
def test_requests_have_the_ids_of_their_root_spans(
    package: str, name: str, setup: str, source: str
) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    found = observe(setup + REQUESTS, name if source == "named" else source)
    changes = found.pop("changes")
    assert isinstance(changes, int)
    assert changes > 25, "premise: the two took turns"
    assert found == {
        "a": True,
        "b": True,
        "child": True,
        "alone": ["None"],
        "job": True,
        "left": True,
    }


def test_what_sentry_does_not_sample_has_no_ids() -> None:
    if importlib.util.find_spec("sentry_sdk") is None:
        pytest.skip("sentry_sdk is not installed")
    program = (
        SENTRY.replace("traces_sample_rate=1.0", "traces_sample_rate=0.0")
        + """
from conprof_core import request_scope
from conprof_core._labels import context_var
from conprof_core.testing import capture
with capture():
    with root_span("r"), request_scope({}) as scope:
        print(repr(context_var.get().trace is None).lower())
        scope.bind({})
"""
    )
    assert observe(program, "sentry") is True
