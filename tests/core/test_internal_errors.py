"""An exception in any step of ours reaches no application, leaves nothing behind, and counts."""

from __future__ import annotations

import pytest
from support.injector import INJECTOR
from support.process import run_script

SCRIPT = """
import threading, time

WHAT = {what!r}
OPTIONS = dict(export_to="none:", profile_types={types!r}, trace_ids="auto", labels={{"a": "b"}})

def left():
    timers = open("/proc/self/timers").read().count("ID:") if sys.platform == "linux" else 0
    return len(os.listdir("/proc/self/task")), timers

def scope():
    with conprof.request_scope({{"http.route": "/x"}}, lambda: {{"http.route": "/y"}}) as scope:
        scope.bind({{"a": "b"}})
        with conprof.labels(job="x"):
            pass

def fork():
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

STEPS = {{
    "start": lambda: conprof.start(**OPTIONS),
    "stop": conprof.stop,
    "flush": lambda: conprof.flush(2),
    "stats": conprof.stats,
    "fork": fork,
    "scope": scope,
}}
conprof.start(**OPTIONS)
STEPS["scope"]()
conprof.flush(2)
conprof.stop()
time.sleep(0.5)  # the threads of this session have ended, too
before = left()
step, counted = 0, 0
while True:
    step += 1
    if WHAT != "start":
        conprof.start(**OPTIONS)
        assert conprof.is_running(), step
    inject = Inject(step)
    errors = dict(_log.internal_errors)
    sys.setprofile(inject)
    try:
        STEPS[WHAT]()  # raises nothing, or this program ends
    except conprof.ConprofError:
        assert WHAT == "start"  # which may say that what was asked for cannot be had
    finally:
        sys.setprofile(None)
    counted += _log.internal_errors != errors
    conprof.stop()
    until = time.monotonic() + 5
    while left() != before and time.monotonic() < until:
        time.sleep(0.01)
    assert left() == before, ("left behind", step, inject.where, before, left())
    if inject.where is None:
        break
    conprof.start(**OPTIONS)
    assert conprof.is_running(), (step, inject.where)
    conprof.stop()
print(step - 1, counted)
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork here")
@pytest.mark.parametrize("what", ["start", "stop", "flush", "stats", "fork", "scope"])
def test_an_error_in_any_step(engine: str, what: str) -> None:
    types = "cpu,wall,heap,tasks" if engine == "native" else "cpu,tasks"
    script = INJECTOR + SCRIPT.format(what=what, types=types)
    result = run_script(script, options=("-W", "ignore"), env={"CONPROF_ENGINE": engine})
    steps, counted = map(int, result.stdout.split())
    assert steps > 10, "the premise: there are steps"
    assert counted > steps / 2 or what == "start", (steps, counted)
