"""``conprof tasks``: where every thread, asyncio task and greenlet of a process stands now."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from conprof_core._tasks_socket import directories, path_of

__all__ = ["add_parser", "run"]

_TIMEOUT_S = 30.0


class _CannotAskError(Exception):
    """Why there is no answer, in words."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the parser of this verb."""
    parser = subparsers.add_parser(
        "tasks",
        help="show where the threads, tasks and greenlets of a process stand",
        description="Print where every thread, asyncio task and greenlet of a process stands, "
        "what it waits for and since when. The process must be profiled with the type 'tasks', "
        "or serve /debug/pprof.",
        epilog="examples: conprof tasks 4711   conprof tasks http://127.0.0.1:8000",
    )
    parser.add_argument("source", metavar="PID|URL", help="a process id or an address")
    parser.add_argument("--json", action="store_true", help="print groups of equal ones as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the snapshot; 2 when it cannot be had."""
    try:
        if args.source.isdecimal():
            text = _ask_process(int(args.source), "json" if args.json else "debug2")
            print(json.dumps(json.loads(text), indent=2) if args.json else text, end="")
        elif args.json:
            print(json.dumps(_groups(_ask_url(args.source, 1)), indent=2))
        else:
            print(_ask_url(args.source, 2), end="")
    except _CannotAskError as error:
        print(f"conprof tasks: {error}", file=sys.stderr)
        return 2
    return 0


def _ask_process(pid: int, wanted: str) -> str:
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        uid = os.getuid()
        if os.path.isdir("/proc/self"):
            raise _CannotAskError(f"there is no process {pid}") from None
    for directory in directories(uid):
        path = path_of(pid, directory)
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(_TIMEOUT_S)
                connection.connect(path)
                connection.sendall(wanted.encode() + b"\n")
                text = b"".join(iter(lambda: connection.recv(65_536), b"")).decode()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _CannotAskError(f"{path}: {error.strerror or error}") from None
        if text:
            return text
        raise _CannotAskError(f"process {pid} does not answer this user")
    raise _CannotAskError(
        f"process {pid} cannot be asked: is it profiled, with 'tasks' among the profile types?"
    )


def _ask_url(url: str, debug: int) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise _CannotAskError(f"{url} is neither a process id nor an http(s) address")
    path = parts.path.rstrip("/")
    if not path.endswith("/goroutine"):
        path += "/goroutine" if path.endswith("/debug/pprof") else "/debug/pprof/goroutine"
    address = urlunsplit((parts.scheme, parts.netloc, path, f"debug={debug}", ""))
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as answer:
            data: bytes = answer.read()
    except urllib.error.HTTPError as error:
        error.close()
        raise _CannotAskError(f"{address}: {error.code} {error.reason}") from None
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        raise _CannotAskError(f"{address}: {reason}") from None
    return data.decode("utf-8", "replace")


def _groups(text: str) -> dict[str, Any]:
    """Read the text of ``debug=1`` back, of this or any Go program."""
    first, _, rest = text.partition("\n")
    total = first.rpartition(" ")[2]
    if not total.isdecimal():
        raise _CannotAskError("the answer is no goroutine profile")
    groups = []
    for paragraph in filter(None, (part.strip() for part in rest.split("\n\n"))):
        head, *lines = paragraph.splitlines()
        group: dict[str, Any] = {"count": int(head.split(" ", 1)[0]), "labels": {}, "frames": []}
        for line in lines:
            if line.startswith("# labels: "):
                group["labels"] = json.loads(line[len("# labels: ") :])
            elif line.startswith("#\t"):
                _, function, *place = line[2:].split("\t")
                file, _, number = place[0].rpartition(":") if place else ("", "", "0")
                frame = {"function": function, "file": file}
                group["frames"].append({**frame, "line": int(number) if number.isdecimal() else 0})
        groups.append(group)
    return {"total": int(total), "groups": groups}
