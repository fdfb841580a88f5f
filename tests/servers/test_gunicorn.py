"""gunicorn with every kind of worker: who reports, what is charged to whom, and the last window."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from support.fake_agent import FakeAgent
from support.process import Running

pytest.importorskip("gunicorn")

from servers.served import (
    DJANGO,
    FLASK,
    STARLETTE,
    Shop,
    check,
    serving,
    stop,
    visit,
    wait_for_children,
)

HEAD = [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--no-control-socket"]
SYNC = ["--worker-class", "sync"]
GTHREAD = ["--worker-class", "gthread", "--threads", "4"]
GEVENT = ["--worker-class", "gevent"]
UVICORN = ["--worker-class", "uvicorn.workers.UvicornWorker"]
OWN_ASGI = ["--worker-class", "asgi"]


@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["", "preload"])
@pytest.mark.parametrize(
    ("shop", "kind"),
    [
        (DJANGO, SYNC),
        (DJANGO, GTHREAD),
        (DJANGO, GEVENT),
        (DJANGO, UVICORN),
        (FLASK, SYNC),
        (FLASK, GTHREAD),
        (FLASK, GEVENT),
        (STARLETTE, UVICORN),
        (STARLETTE, OWN_ASGI),
    ],
    ids=lambda value: value.name if isinstance(value, Shop) else value[1].rpartition(".")[2],
)
def test_gunicorn(
    shop: Shop, kind: list[str], preload: list[str], agent: FakeAgent, tmp_path: Path
) -> None:
    if "uvicorn.workers.UvicornWorker" in kind:
        pytest.importorskip("uvicorn.workers")
    if kind is GEVENT and preload:
        # Django made its database connections before gevent's worker patches: not ours to heal.
        preload = [*preload, "--config", "python:servers.gevent_early"]
    target = shop.wsgi if shop.wsgi and kind not in (UVICORN, OWN_ASGI) else shop.asgi
    command = [*HEAD, *kind, *preload, "--workers", "2", target]
    with serving(command, shop, agent, tmp_path) as (process, url):
        wait_for_children(process.pid, 2)
        # Django's asynchronous views and gevent do not go together (asgiref refuses).
        visit(url, skip="supplier" if shop is DJANGO and kind is GEVENT else "")
        stop(process)
    check(agent.wait_for(1), shop, workers=2, supervisor=process.pid)


def test_max_requests(agent: FakeAgent, tmp_path: Path) -> None:
    """Workers that end after a number of requests lose nothing."""
    command = [*HEAD, *SYNC, "--workers", "1", "--max-requests", "20", FLASK.wsgi]
    with serving(command, FLASK, agent, tmp_path) as (process, url):
        visit(url, concurrency=1)
        stop(process)
    workers = {upload.tags["process_id"] for upload in agent.wait_for(1)}
    assert len(workers) >= 4, "119 requests at 20 for each worker"
    check(agent.accepted, FLASK, workers=len(workers), supervisor=process.pid)


def test_a_killed_worker_is_replaced_and_the_rest_arrives(agent: FakeAgent, tmp_path: Path) -> None:
    command = [*HEAD, *SYNC, "--workers", "1", FLASK.wsgi]
    with serving(command, FLASK, agent, tmp_path) as (process, url):
        (first,) = wait_for_children(process.pid, 1)
        os.kill(first, signal.SIGKILL)
        second = _other_child(process, first)
        visit(url, concurrency=1)
        stop(process)
    check(agent.wait_for(1), FLASK, workers=1, supervisor=process.pid)
    assert agent.accepted[0].tags["process_id"] == str(second)


def test_a_graceful_reload_sends_the_old_workers_last_window(
    agent: FakeAgent, tmp_path: Path
) -> None:
    command = [*HEAD, *SYNC, "--workers", "1", DJANGO.wsgi]
    with serving(command, DJANGO, agent, tmp_path) as (process, url):
        (first,) = wait_for_children(process.pid, 1)
        visit(url, concurrency=1)
        process.signal(signal.SIGHUP)
        agent.wait_for(1)
        _other_child(process, first)
        stop(process)
    check(agent.accepted, DJANGO, workers=1, supervisor=process.pid)
    assert agent.accepted[0].tags["process_id"] == str(first)


def _other_child(process: Running, first: int) -> int:
    import time

    deadline = time.monotonic() + 20
    while True:
        others = [pid for pid in wait_for_children(process.pid, 0) if pid != first]
        if others:
            return others[0]
        assert time.monotonic() < deadline, "no new worker"
        time.sleep(0.02)
