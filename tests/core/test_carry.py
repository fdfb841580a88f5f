"""Labels follow work into threads, pools and greenlets; nothing else does, and nothing stays."""

from __future__ import annotations

import asyncio
import inspect
import logging.handlers
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import thread as pools
from contextvars import ContextVar
from typing import Any

import pytest
from support.cells import labels_here
from support.process import run_script

import conprof_core
from conprof_core import labels, testing

OTHER: ContextVar[str] = ContextVar("other", default="unset")
WANTED = {"job": "carried"}

originals = {
    "start": threading.Thread.__dict__["start"],
    "init": pools._WorkItem.__dict__["__init__"],  # type: ignore[attr-defined]
    "run": pools._WorkItem.__dict__["run"],  # type: ignore[attr-defined]
}


def installed() -> dict[str, Any]:
    return {
        "start": threading.Thread.__dict__["start"],
        "init": pools._WorkItem.__dict__["__init__"],  # type: ignore[attr-defined]
        "run": pools._WorkItem.__dict__["run"],  # type: ignore[attr-defined]
    }


@pytest.fixture
def profiling() -> Iterator[None]:
    with testing.capture():
        yield


def look() -> tuple[dict[str, str], str]:
    return labels_here(), OTHER.get()


def in_thread(**options: Any) -> tuple[dict[str, str], str]:
    found: list[tuple[dict[str, str], str]] = []
    thread = threading.Thread(target=lambda: found.append(look()), **options)
    thread.start()
    thread.join(10)
    return found[0]


@pytest.mark.usefixtures("profiling")
def test_a_thread_gets_the_labels_and_nothing_else() -> None:
    token = OTHER.set("set")
    with labels(WANTED):
        assert in_thread() == (WANTED, "unset")
    assert in_thread() == ({}, "unset")
    OTHER.reset(token)


@pytest.mark.usefixtures("profiling")
def test_a_thread_sees_a_route_that_is_bound_later() -> None:
    bound = threading.Event()
    found: list[dict[str, str]] = []

    def work() -> None:
        assert bound.wait(10)
        found.append(labels_here())

    with conprof_core.request_scope({}) as scope:
        thread = threading.Thread(target=work)
        thread.start()
        scope.bind({"http.route": "/late"})
        bound.set()
        thread.join(10)
    assert found == [{"http.route": "/late"}]


@pytest.mark.usefixtures("profiling")
def test_a_subclass_with_its_own_run_and_a_timer() -> None:
    found: list[dict[str, str]] = []

    class Mine(threading.Thread):
        def run(self) -> None:
            found.append(labels_here())

    with labels(WANTED):
        threads = [Mine(), threading.Timer(0, lambda: found.append(labels_here()))]
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join(10)
        assert "_set_ident" not in vars(thread)
    assert found == [WANTED, WANTED]


@pytest.mark.usefixtures("profiling")
def test_a_pool_labels_each_item_as_its_submitter() -> None:
    with ThreadPoolExecutor(1) as pool:
        with labels(WANTED):
            first = pool.submit(look)  # starts the worker
        with labels(job="other"):
            second = pool.submit(look)
        third = pool.submit(look)
    assert first.result()[0] == WANTED
    assert second.result()[0] == {"job": "other"}
    assert third.result()[0] == {}, "the worker does not wear what its first item wore"


@pytest.mark.usefixtures("profiling")
def test_a_context_that_the_item_leaves_changed_is_put_back() -> None:
    def enter() -> None:
        labels(job="left open").__enter__()

    with ThreadPoolExecutor(1) as pool:
        with labels(WANTED):
            pool.submit(enter).result(10)
        assert pool.submit(look).result(10)[0] == {}


@pytest.mark.usefixtures("profiling")
def test_run_in_executor_and_to_thread() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with labels(WANTED):
            assert (await loop.run_in_executor(None, look))[0] == WANTED
            assert (await asyncio.to_thread(look))[0] == WANTED
            with ThreadPoolExecutor(1) as own:
                assert (await loop.run_in_executor(own, look))[0] == WANTED
        assert (await loop.run_in_executor(None, look))[0] == {}

    asyncio.run(main())


@pytest.mark.usefixtures("profiling")
def test_the_callable_is_handed_on_as_it_is() -> None:
    seen: list[object] = []

    class Pool(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            seen.extend((fn, args, kwargs))
            return super().submit(fn, *args, **kwargs)

    def work(*args: int, **kwargs: int) -> object:
        return args, kwargs

    with labels(WANTED), Pool(1) as pool:
        assert pool.submit(work, 1, two=2).result(10) == ((1,), {"two": 2})
        thread = threading.Thread(target=work, args=(1,))
        assert thread._target is work  # type: ignore[attr-defined]
    assert seen == [work, (1,), {"two": 2}]
    assert inspect.signature(threading.Thread.start) == inspect.signature(originals["start"])
    assert threading.Thread.start.__qualname__ == "Thread.start"


@pytest.mark.usefixtures("profiling")
def test_an_exception_of_the_callable_passes() -> None:
    with labels(WANTED), ThreadPoolExecutor(1) as pool:
        with pytest.raises(ZeroDivisionError):
            pool.submit(lambda: 1 / 0).result(10)
        assert pool.submit(look).result(10)[0] == WANTED


@pytest.mark.usefixtures("profiling")
def test_a_thread_that_serves_the_whole_process_is_not_labelled() -> None:
    found: list[dict[str, str]] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(labels_here())

    messages: queue.Queue[Any] = queue.Queue()
    with labels(WANTED):
        listener = logging.handlers.QueueListener(messages, Handler())
        listener.start()
        messages.put(logging.LogRecord("x", 30, "", 0, "x", None, None))
        listener.stop()
    assert found == [{}]


@pytest.mark.usefixtures("profiling")
def test_starting_a_thread_twice_is_refused_as_ever() -> None:
    with labels(WANTED):
        thread = threading.Thread(target=look)
        thread.start()
        with pytest.raises(RuntimeError, match="only be started once"):
            thread.start()
        thread.join(10)


def test_it_comes_with_a_session_and_goes_with_it() -> None:
    assert installed() == originals
    with testing.capture():
        now = installed()
        assert all(now[name] is not originals[name] for name in originals)
        from conprof_core import _carry

        _carry.install()
        assert installed() == now
    assert installed() == originals
    with labels(WANTED):
        assert in_thread() == ({}, "unset")


def test_one_switch_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    with testing.capture(carry_labels=False):
        assert installed() == originals
    monkeypatch.setenv("CONPROF_CARRY_LABELS", "0")
    with testing.capture():
        assert installed() == originals
        with labels(WANTED):
            assert in_thread() == ({}, "unset")


def test_who_patches_on_top_keeps_working(monkeypatch: pytest.MonkeyPatch) -> None:
    with testing.capture():
        ours = threading.Thread.start

        def theirs(self: threading.Thread) -> None:
            ours(self)

        monkeypatch.setattr(threading.Thread, "start", theirs)
    assert threading.Thread.start is theirs
    with labels(WANTED):
        assert in_thread() == ({}, "unset"), "ours is inert once the session is over"


def test_a_forked_child_carries_on() -> None:
    result = run_script(
        """
        import os, threading
        from conprof_core import labels, testing
        from conprof_core._labels import context_var

        def look(found):
            cell = context_var.get()
            found.append(dict(cell.labels.items()) if cell else {})

        def in_thread():
            found = []
            thread = threading.Thread(target=look, args=(found,))
            thread.start()
            thread.join()
            return found[0]

        with testing.capture():
            with labels(job="before the fork"):
                pid = os.fork()
                found = in_thread()
                if pid:
                    os.waitpid(pid, 0)  # one after the other: an unbuffered print is several writes
                print(pid == 0, found, flush=True)
                if pid == 0:
                    os._exit(0)
        """,
        options=["-W", "ignore::DeprecationWarning"],
    )
    wanted = "{'job': 'before the fork'}"
    assert sorted(result.stdout.splitlines()) == [f"False {wanted}", f"True {wanted}"]


@pytest.mark.parametrize("patched", [True, False])
def test_gevent(patched: bool) -> None:
    pytest.importorskip("gevent")
    result = run_script(
        f"""
        if {patched}:
            from gevent import monkey
            monkey.patch_all()
        import gevent, threading
        from concurrent.futures import ThreadPoolExecutor
        from contextvars import ContextVar
        from gevent.pool import Pool
        from gevent.threadpool import ThreadPoolExecutor as GeventExecutor
        from conprof_core import labels, testing
        from conprof_core._labels import context_var

        other = ContextVar("other", default="unset")

        def look():
            cell = context_var.get()
            return dict(cell.labels.items()) if cell else {{}}, other.get()

        def in_thread():
            found = []
            thread = threading.Thread(target=lambda: found.append(look()))
            thread.start()
            thread.join()
            return found[0]

        def everywhere():
            with ThreadPoolExecutor(1) as pool, GeventExecutor(1) as own:
                yield "spawn", gevent.spawn(look).get()
                yield "spawn_later", gevent.spawn_later(0, look).get()
                yield "pool", Pool(2).spawn(look).get()
                yield "map", Pool(2).map(lambda _: look(), [1])[0]
                yield "threadpool", gevent.get_hub().threadpool.spawn(look).get()
                yield "gevent executor", own.submit(look).result()
                yield "executor", pool.submit(look).result()
                yield "thread", in_thread()

        other.set("set")
        with testing.capture():
            with labels(job="x"):
                for name, found in everywhere():
                    assert found == ({{"job": "x"}}, "unset"), (name, found)
            for name, found in everywhere():
                assert found == ({{}}, "unset"), (name, found)
        with labels(job="x"):
            for name, found in everywhere():
                assert found == ({{}}, "unset"), ("after", name, found)
        print("done")
        """
    )
    assert result.stdout == "done\n", result.describe()


@pytest.mark.parametrize("first", ["a", None])
def test_a_pool_module_imported_after_the_start(first: str | None) -> None:
    """Whether the first item of all, which brings the patch, has a label or not."""
    result = run_script(LATE_POOL, str(first or ""))
    assert result.stdout.split() == [str(first), str(first), "b", "None", "b"], result.describe()


LATE_POOL = """
import os, sys
from contextlib import nullcontext
import conprof_core
from conprof_core._labels import context_var

conprof_core.start(period=1000)
assert "concurrent.futures.thread" not in sys.modules, "the premise"
from concurrent.futures import ThreadPoolExecutor

def job():
    cell = context_var.get()
    return None if cell is None else dict(cell.labels.items())["job"]

with ThreadPoolExecutor(1) as pool:
    with conprof_core.labels(job=sys.argv[1]) if sys.argv[1] else nullcontext():
        print(pool.submit(job).result(), pool.submit(job).result())
    with conprof_core.labels(job="b"):
        print(pool.submit(job).result())
    print(pool.submit(job).result())
with ThreadPoolExecutor(1) as pool, conprof_core.labels(job="b"):
    print(pool.submit(job).result())
sys.stdout.flush()
os._exit(0)
"""
