"""A real browser and the viewer in it: what its tests share."""

from __future__ import annotations

import os
import shutil

import pytest

from support import agent as make

__all__ = ["ARGUMENTS", "CHROMIUM", "EVIL", "GRAPH", "MARKS", "go", "names", "open_flame"]

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or ""
MARKS = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="Debian's chromium is not installed"),
]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
EVIL = '<img src=x onerror="window.hacked=1">'
GRAPH = "window.conprof.views.flame.graph()"


def go(page, agent: make.Agent, query: str = "") -> None:
    page.goto(f"{agent.url}?service=shop&span=900{query}")
    page.wait_for_selector("section.view, .empty")


def open_flame(page, agent: make.Agent, query: str = "") -> None:
    go(page, agent, f"&view=flame{query}")
    page.wait_for_function(f"{GRAPH}?.tree && {GRAPH}.drawn > 1")


def names(page) -> list[str]:
    return page.eval_on_selector_all("tbody tr td:first-child", "c => c.map(x => x.textContent)")
