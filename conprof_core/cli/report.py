"""``conprof report``: what a profile says, as tables, as JSON or as an HTML page."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from conprof_core.agent import limits
from conprof_core.agent.errors import AgentError
from conprof_core.agent.sources import Loaded, load
from conprof_core.agent.standalone import page
from conprof_core.agent.tree import FlameTree
from conprof_core.cli._places import COUNTED, by_places
from conprof_core.cli._tables import amount, percent, render

__all__ = ["add_parser", "by_rows", "run", "write_page"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the parser of this verb."""
    parser = subparsers.add_parser(
        "report",
        help="print a table from stored or saved profiles",
        description="Print what profiles say: by route, and by function.",
        epilog="examples: conprof report profiles/   conprof report http://127.0.0.1:8307/ "
        "--html report.html",
    )
    parser.add_argument(
        "source", metavar="FILE|DIR|URL", help="a pprof file, a directory of them, or an address"
    )
    add_common(parser)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options that report and diff share."""
    parser.add_argument("--type", metavar="NAME", help="profile type, such as cpu or alloc_space")
    parser.add_argument(
        "--by", metavar="LABEL", default="http.route", help="label of the first table"
    )
    parser.add_argument("-n", "--limit", metavar="N", type=int, default=20, help="rows of a table")
    parser.add_argument("--html", metavar="OUT", help="write a page with the flame graph")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(args: argparse.Namespace) -> int:
    """Print the report; 2 when the source cannot be read."""
    try:
        loaded = load(args.source, args.type)
        kind = loaded.choose(args.type)
    except AgentError as error:
        print(f"conprof report: {error}", file=sys.stderr)
        return 2
    tree = FlameTree()
    loaded.add_to(tree, kind.name)
    groups = by_rows(loaded, kind.name, args.by)
    places = by_places(loaded, kind.name, args.by) if kind.name in COUNTED else []
    top = tree.top()
    total = tree.totals[0][0]
    head = {"source": args.source, "files": loaded.files, "seconds": loaded.seconds}
    head |= {"type": kind.name, "unit": kind.unit, "total": total, "by": args.by}
    if args.html:
        data = head | {"title": args.source, "rows": groups}
        if not write_page(args.html, data | tree.to_json(limits.MAX_NODES_IN_ANSWER), "report"):
            return 2
    if args.json:
        functions = [
            {key: value for key, value in row.items() if not key.startswith("base_")}
            for row in top[: args.limit]
        ]
        answer = head | {"rows": groups, "functions": functions}
        if kind.name in COUNTED:
            answer |= {"places": places[: args.limit]}
        print(json.dumps(answer, indent=2))
    elif not args.html:
        _print(args, loaded, kind.name, kind.unit, groups, places, top, total)
    return 0


def by_rows(loaded: Loaded, type_name: str, key: str) -> list[dict[str, Any]]:
    """Return one row for each value of a label, largest first."""
    sums = loaded.by_label(type_name, key)
    total = sum(sums.values()) or 1
    ordered = sorted(sums.items(), key=lambda pair: (-pair[1], pair[0]))
    return [{"value": name, "total": value, "share": value / total} for name, value in ordered]


def write_page(path: str, data: dict[str, Any], verb: str) -> bool:
    """Write the HTML page and say where; tell whether that was possible."""
    try:
        Path(path).write_text(page(data), encoding="utf-8")
    except OSError as error:
        print(f"conprof {verb}: {path}: {error.strerror or error}", file=sys.stderr)
        return False
    print(f"conprof {verb}: wrote {path}", file=sys.stderr)
    return True


def _print(
    args: argparse.Namespace,
    loaded: Loaded,
    type_name: str,
    unit: str,
    groups: list[dict[str, Any]],
    places: list[dict[str, Any]],
    top: list[dict[str, Any]],
    total: float,
) -> None:
    covered = f" in {loaded.seconds:.0f} s" if loaded.seconds else ""
    files = f", {loaded.files} files" if loaded.files > 1 else ""
    print(f"{type_name}: {amount(total, unit)}{covered}{files}\n")
    if places:
        _print_places(args, type_name, unit, places)
    rows = [
        [row["value"] or "(none)", percent(row["share"]), amount(row["total"], unit)]
        for row in groups[: args.limit]
    ]
    print(render("", [args.by, "share", "total"], rows))
    print()
    whole = total or 1
    rows = [
        [
            f"{row['function']}  {_place(row)}".rstrip(),
            amount(row["self"], unit),
            percent(row["self"] / whole),
            amount(row["total"], unit),
            percent(row["total"] / whole),
        ]
        for row in top[: args.limit]
    ]
    print(render("", ["function", "self", "", "total", ""], rows))


def _print_places(
    args: argparse.Namespace, type_name: str, unit: str, places: list[dict[str, Any]]
) -> None:
    title, count_title, _ = COUNTED[type_name]
    headers = [title, args.by, "total", "", count_title, "mean"]
    rows = [
        [
            f"{row['function']}  {' '.join(filter(None, (_place(row), row['leaf'])))}".rstrip(),
            row["value"] or "(none)",
            amount(row["total"], unit),
            percent(row["share"]),
            str(row["count"]),
            amount(row["total"] / row["count"], unit) if row["count"] else "-",
        ]
        for row in places[: args.limit]
    ]
    if not any(row["count"] for row in places):  # a single type, as an agent gives it out
        headers = headers[:-2]
        rows = [row[:-2] for row in rows]
    print(render("", headers, rows))
    print()


def _place(row: dict[str, Any]) -> str:
    if not row["file"]:
        return ""
    return f"{row['file']}:{row['line']}" if row["line"] else str(row["file"])
