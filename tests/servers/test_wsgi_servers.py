"""uWSGI, and the servers that Django and Flask bring along."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

import pytest
from support.fake_agent import FakeAgent
from support.process import Running

from servers.served import DJANGO, FLASK, ROOT, Shop, check, serving, stop, visit, wait_for_children

UWSGI = shutil.which("uwsgi", path=str(Path(sys.executable).parent))
UWSGI_COMMAND = [
    UWSGI or "uwsgi",
    "--http-socket",
    "127.0.0.1:{port}",
    "--master",
    "--processes",
    "2",
    "--need-app",
    # A graceful stop. With --die-on-term SIGTERM ends workers at once, and uWSGI runs no exit hooks
    # in one that is busy, if only with the end of a request (uwsgi_python_atexit).
    "--hook-master-start",
    "unix_signal:15 gracefully_kill_them_all",
    "--pythonpath",
    str(ROOT),
    "--pythonpath",
    str(ROOT / "tests"),
    "--virtualenv",
    sys.prefix,
]

needs_uwsgi = pytest.mark.skipif(UWSGI is None, reason="no uwsgi beside this Python")


@needs_uwsgi
@pytest.mark.parametrize("lazy", [[], ["--lazy-apps"]], ids=["", "lazy-apps"])
@pytest.mark.parametrize("shop", [DJANGO, FLASK], ids=lambda shop: shop.name)
def test_uwsgi(shop: Shop, lazy: list[str], agent: FakeAgent, tmp_path: Path) -> None:
    command = [*UWSGI_COMMAND, "--enable-threads", *lazy, "--module", shop.wsgi]
    with serving(command, shop, agent, tmp_path) as (process, url):
        wait_for_children(process.pid, 2)
        visit(url)
        stop(process)
    uploads = agent.wait_for(1)
    workers = len({upload.tags["process_id"] for upload in uploads})
    assert workers in (1, 2), "one worker may have served next to nothing"
    check(uploads, shop, workers=workers, supervisor=process.pid)


@needs_uwsgi
def test_uwsgi_without_threads_is_said(agent: FakeAgent, tmp_path: Path) -> None:
    command = [*UWSGI_COMMAND, "--module", FLASK.wsgi]
    with serving(command, FLASK, agent, tmp_path) as (process, url):
        visit(url, concurrency=1)
        output = stop(process)
    assert "add --enable-threads" in output


@pytest.mark.parametrize("reload", [True, False])
def test_runserver(reload: bool, agent: FakeAgent, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "django", "runserver", "127.0.0.1:{port}"]
    if not reload:
        command.append("--noreload")
    with serving(command, DJANGO, agent, tmp_path) as (process, url):
        visit(url)
        _stop_development_server(process, reload)
    check(agent.wait_for(1), DJANGO, workers=1, supervisor=process.pid if reload else None)


@pytest.mark.parametrize("reload", [True, False])
def test_flask_run(reload: bool, agent: FakeAgent, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flask", "--app", "example_apps.flask_shop.app", "run"]
    command += ["--port", "{port}", "--reload" if reload else "--no-reload"]
    with serving(command, FLASK, agent, tmp_path) as (process, url):
        visit(url)
        _stop_development_server(process, reload)
    check(agent.wait_for(1), FLASK, workers=1, supervisor=process.pid if reload else None)


def _stop_development_server(process: Running, reload: bool) -> None:
    """Interrupt what serves: a reloader's parent that is interrupted too kills its child."""
    import os

    serving_pid = wait_for_children(process.pid, 1)[0] if reload else process.pid
    os.kill(serving_pid, signal.SIGINT)
    process.finish(20)
