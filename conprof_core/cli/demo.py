"""``conprof demo``: an agent, three example applications and their visitors, on this machine alone.

Every process is a child and ends with the demo; data goes into a temporary directory. The
applications are in the source tree, so the demo runs from a clone.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from conprof_core.cli._extra import need_agent_extra
from conprof_core.cli._tables import amount, percent, render

__all__ = ["add_parser", "run"]

_APPS: Final = ("django_shop", "flask_shop", "starlette_shop")
_WINDOW_S: Final = 10
# Everything there is to see; who sets the variable sees that.
_PROFILE_TYPES: Final = "cpu,wall,heap,tasks"
_FIRST_TABLE_S: Final = 90
_USUAL_PORT: Final = 8307
# Installed packages first, the source tree last: the applications come from the tree, conprof from
# where it was installed, with its compiled engine.
_LAUNCH: Final = (
    "import runpy, sys; root, name, *rest = sys.argv[1:]; sys.path.append(root); "
    "sys.argv = [name, *rest]; runpy.run_module(name, run_name='__main__', alter_sys=True)"
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the parser of this verb."""
    parser = subparsers.add_parser(
        "demo",
        help="show the viewer with a program that profiles itself",
        description="Start an agent, three example applications and their traffic; show what each "
        "route costs. Runs from a clone of the repository; Ctrl-C ends it.",
    )
    parser.add_argument("--once", action="store_true", help="end after the first table")
    parser.add_argument("--root", metavar="DIR", help="where example_apps/ is (default: here)")


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 when every application's routes were seen, 1 if not, 2 without the parts."""
    if not need_agent_extra("demo"):
        return 2
    root = Path(args.root or os.getcwd()).resolve()
    missing = [name for name in _APPS if not (root / "example_apps" / name).is_dir()]
    if missing:
        print(
            f"conprof demo: {root} has no example_apps/{missing[0]}; run it in a clone of the "
            "repository, as make demo does",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory(prefix="conprof-demo-") as directory:
        demo = _Demo(root, Path(directory))
        # Whoever ends the demo ends its agent, shops and traffic too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            return demo.run(once=args.once)
        except _CouldNotStartError as error:
            print(f"conprof demo: {error}", file=sys.stderr)
            return 1
        finally:
            demo.stop()


class _CouldNotStartError(Exception):
    """Something the demo needs did not come up."""


class _Demo:
    def __init__(self, root: Path, directory: Path) -> None:
        self._root = root
        self._directory = directory
        self._children: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._port = _free_port(_USUAL_PORT)
        self.url = f"http://127.0.0.1:{self._port}/"

    def run(self, *, once: bool) -> int:
        self._spawn(
            "agent",
            [
                "conprof_core.cli.main",
                "agent",
                f"--listen=127.0.0.1:{self._port}",
                f"--data={self._directory / 'data'}",
            ],
        )
        self._wait_for_agent()
        for name in _APPS:
            port = _free_port(0)
            self._spawn(name, [f"example_apps.{name}", str(port)], name)
            self._spawn(
                f"traffic of {name}",
                [
                    "example_apps.traffic",
                    f"http://127.0.0.1:{port}",
                    "--seconds=1000000000",
                    "--concurrency=2",
                ],
            )
        print(f"Viewer: {self.url}", flush=True)
        print(f"The first table comes after a window of {_WINDOW_S} s.\n", flush=True)
        tables = self._first_tables()
        for name, table in tables.items():
            print(_render(name, table), end="\n\n", flush=True)
        lacking = [name for name in _APPS if name not in tables]
        if lacking:
            print(f"conprof demo: nothing came from {', '.join(lacking)}", file=sys.stderr)
            self._explain()
            return 1
        if once:
            return 0
        print(f"Viewer: {self.url}   Ctrl-C ends the demo.", flush=True)
        while all(child.poll() is None for _, child in self._children):
            time.sleep(0.5)
        self._explain()
        return 1

    def _spawn(self, name: str, module: list[str], service: str | None = None) -> None:
        environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environ |= {
            "PYTHONSAFEPATH": "1",
            "BLACKFIRE_AGENT_SOCKET": f"tcp://127.0.0.1:{self._port}",
            "BLACKFIRE_CONPROF_PERIOD": str(_WINDOW_S),
            "BLACKFIRE_CONPROF_CPU_DURATION": str(_WINDOW_S),
            "TMPDIR": str(self._directory),
        }
        environ.setdefault("CONPROF_PROFILE_TYPES", _PROFILE_TYPES)
        if service:
            environ["BLACKFIRE_CONPROF_APP_NAME"] = service
        with open(self._log(name), "wb") as log:
            child = subprocess.Popen(
                [sys.executable, "-c", _LAUNCH, str(self._root), *module],
                env=environ,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the demo, which ends its children in order
            )
        self._children.append((name, child))

    def _log(self, name: str) -> Path:
        return self._directory / f"{name.replace(' ', '-')}.log"

    def _explain(self) -> None:
        for name, child in self._children:
            if child.poll() not in (None, 0):
                tail = self._log(name).read_text("utf-8", "replace").strip().splitlines()[-5:]
                print(f"{name} ended with status {child.returncode}:", file=sys.stderr)
                print("\n".join(f"    {line}" for line in tail), file=sys.stderr)

    def _wait_for_agent(self) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if self._children[0][1].poll() is not None:
                break
            try:
                self._get("status")
            except (OSError, ValueError):
                time.sleep(0.1)
            else:
                return
        self._explain()
        raise _CouldNotStartError("the agent did not start")

    def _get(self, path: str, **parameters: str) -> Any:
        url = f"{self.url}api/v1/{path}?{urlencode(parameters)}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=10) as answer:
            return json.load(answer)

    def _first_tables(self) -> dict[str, Any]:
        tables: dict[str, Any] = {}
        deadline = time.monotonic() + _FIRST_TABLE_S
        while time.monotonic() < deadline and len(tables) < len(_APPS):
            time.sleep(1)
            try:
                for name in _APPS:
                    table = self._get("table", service=name, type="cpu", **{"from": "-10m"})
                    if any(row["value"].startswith("/") for row in table["rows"]):
                        tables[name] = table
            except (OSError, ValueError):
                continue
            if any(child.poll() is not None for _, child in self._children):
                break
        return {name: tables[name] for name in _APPS if name in tables}

    def stop(self) -> None:
        """End every child: visitors, applications (they send their last window), the agent."""
        for children in (self._children[1:], self._children[:1]):
            for _, child in children:
                if child.poll() is None:
                    child.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 6
            for _, child in children:
                try:
                    child.wait(max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()


def _free_port(wanted: int) -> int:
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return _free_port(0)
        return int(probe.getsockname()[1])


def _render(name: str, table: dict[str, Any]) -> str:
    unit = table["unit"]
    has_requests = any(row["per_request"] is not None for row in table["rows"])
    headers = ["route", "share", "CPU per second", "p95 of windows", "total"]
    if has_requests:
        headers.insert(2, "CPU per request")
    rows = []
    for row in table["rows"]:
        cells = [row["value"] or "(no route)", percent(row["share"])]
        if has_requests:
            cells.append(amount(row["per_request"], unit))
        cells += [
            f"{amount(row['per_second'], unit)}/s",
            f"{amount(row['p95'], unit)}/s",
            amount(row["total"], unit),
        ]
        rows.append(cells)
    title = f"{name}: CPU by route, {table['covered_s']:.0f} s covered"
    return render(title, headers, rows)
