"""The page at ``/debug/pprof/``: what can be read in this process, and how to get the rest."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from html import escape

from conprof_core import _profiler
from conprof_core._version import __version__
from conprof_core.pull.catalog import CATALOG, Entry, why_not

__all__ = ["index"]

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}"
    "table{border-collapse:collapse}td{padding:.2rem 1.2rem .2rem 0;vertical-align:top}"
    ".off{opacity:.65}"
)


def index() -> str:
    """Return the page. Links are relative, so they hold wherever it is mounted."""
    session = _profiler.session()
    rows = "".join(_rows(entry, why_not(entry, session)) for entry in CATALOG)
    if session is None:
        state = "not running"
    else:
        state = f"{session.process.service}, {session.engine.name} engine"
    return (
        "<!DOCTYPE html><html lang=en><meta charset=utf-8><title>/debug/pprof/</title>"
        f"<style>{_STYLE}</style><h1>/debug/pprof/</h1>"
        f"<p>conprof {escape(__version__)} · {escape(state)} · process {os.getpid()} · "
        f"{escape(sys.implementation.name)} {sys.version_info[0]}.{sys.version_info[1]}</p>"
        f"<table>{rows}</table>"
        "<p><a href=control>control</a>: what it does now; with a token it can be changed.</p>"
        "<p>Profiles are gzip-compressed pprof, for <code>go tool pprof</code>, Parca and Grafana "
        "Alloy. With several processes behind one port, each answer is of one of them.</p>"
    )


def _rows(entry: Entry, reason: str) -> str:
    text = escape(entry.text)
    if reason:
        return f"<tr class=off><td>{entry.name}<td>{text}<br>off: {escape(reason)}"
    links = " · ".join(f'<a href="{url}">{label}</a>' for url, label in _links(entry))
    return f'<tr><td><a href="{entry.name}">{entry.name}</a><td>{text}<br>{links}'


def _links(entry: Entry) -> Iterator[tuple[str, str]]:
    name = entry.name
    if entry.takes_time:
        yield f"{name}?seconds=10", "10 seconds"
        return
    yield f"{name}?debug=1", "as text"
    if entry.measures is None:
        yield f"{name}?debug=2", "one by one"
    yield f"{name}?seconds=10", "difference over 10 seconds"
