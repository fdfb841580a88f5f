"""uvicorn, hypercorn and daphne, alone and with several workers."""

from __future__ import annotations

import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.fake_agent import FakeAgent

from servers.served import DJANGO, STARLETTE, Shop, check, serving, stop, visit

UVICORN = [sys.executable, "-m", "uvicorn", "--port", "{port}"]
HYPERCORN = [sys.executable, "-m", "hypercorn", "--bind", "127.0.0.1:{port}"]
DAPHNE = [sys.executable, "-m", "daphne", "--port", "{port}", "--bind", "127.0.0.1"]
# uvicorn and daphne end a graceful stop by the signal itself.
BY_SIGNAL = (0, -signal.SIGTERM)

needs_uvicorn = pytest.mark.skipif(find_spec("uvicorn") is None, reason="no uvicorn")


@needs_uvicorn
@pytest.mark.parametrize("shop", [DJANGO, STARLETTE], ids=lambda shop: shop.name)
@pytest.mark.parametrize("more", [[], ["--lifespan", "off"], ["--loop", "uvloop"]], ids=" ".join)
def test_uvicorn(shop: Shop, more: list[str], agent: FakeAgent, tmp_path: Path) -> None:
    if "uvloop" in more:
        pytest.importorskip("uvloop")
    if "off" in more and shop is STARLETTE:
        _prepare(tmp_path)  # its lifespan does
    with serving([*UVICORN, *more, shop.asgi], shop, agent, tmp_path) as (process, url):
        visit(url)
        stop(process, codes=BY_SIGNAL)
    check(agent.wait_for(1), shop, workers=1)
    assert agent.accepted[0].tags["process_id"] == str(process.pid)


@needs_uvicorn
@pytest.mark.parametrize("shop", [DJANGO, STARLETTE], ids=lambda shop: shop.name)
def test_uvicorn_workers(shop: Shop, agent: FakeAgent, tmp_path: Path) -> None:
    command = [*UVICORN, "--workers", "2", shop.asgi]
    with serving(command, shop, agent, tmp_path) as (process, url):
        visit(url)
        stop(process, codes=BY_SIGNAL)
    _check_workers(agent, shop, process.pid)


@needs_uvicorn
def test_uvicorn_reload(agent: FakeAgent, tmp_path: Path) -> None:
    """The supervisor does not report; the process that serves does."""
    command = [*UVICORN, "--reload", "--reload-dir", str(tmp_path), STARLETTE.asgi]
    with serving(command, STARLETTE, agent, tmp_path) as (process, url):
        visit(url)
        stop(process, codes=BY_SIGNAL)
    check(agent.wait_for(1), STARLETTE, workers=1, supervisor=process.pid)


@pytest.mark.parametrize("shop", [DJANGO, STARLETTE], ids=lambda shop: shop.name)
@pytest.mark.parametrize("workers", [0, 2])
def test_hypercorn(shop: Shop, workers: int, agent: FakeAgent, tmp_path: Path) -> None:
    pytest.importorskip("hypercorn")
    command = [*HYPERCORN, "--workers", str(workers), shop.asgi]
    with serving(command, shop, agent, tmp_path) as (process, url):
        visit(url)
        stop(process)
    if workers:
        _check_workers(agent, shop, process.pid)
    else:
        check(agent.wait_for(1), shop, workers=1)


@pytest.mark.parametrize("shop", [DJANGO, STARLETTE], ids=lambda shop: shop.name)
def test_daphne(shop: Shop, agent: FakeAgent, tmp_path: Path) -> None:
    pytest.importorskip("daphne")
    if shop is STARLETTE:
        _prepare(tmp_path)  # daphne has no lifespan
    with serving([*DAPHNE, shop.asgi], shop, agent, tmp_path) as (process, url):
        visit(url)
        stop(process, codes=BY_SIGNAL)
    check(agent.wait_for(1), shop, workers=1)


def _prepare(tmp_path: Path) -> None:
    from example_apps import catalog

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOP_DATABASE", str(tmp_path / "shop.sqlite"))
        catalog.prepare()


def _check_workers(agent: FakeAgent, shop: Shop, supervisor: int) -> None:
    uploads = agent.wait_for(1)
    # The kernel decides which worker accepts; one of them may have served next to nothing.
    workers = len({upload.tags["process_id"] for upload in uploads})
    assert workers in (1, 2)
    check(uploads, shop, workers=workers, supervisor=supervisor)
