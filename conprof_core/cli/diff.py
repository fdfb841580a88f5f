"""``conprof diff A B``: what changed from A to B, by route and by function."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from conprof_core.agent import limits
from conprof_core.agent.errors import AgentError
from conprof_core.agent.sources import Loaded, load
from conprof_core.agent.tree import FlameTree
from conprof_core.cli._tables import amount, percent, render, signed
from conprof_core.cli.report import add_common, write_page

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the parser of this verb."""
    parser = subparsers.add_parser(
        "diff",
        help="compare two profiles",
        description="Compare two profiles, per second of what each covers; where one does not say "
        "how long it took, by share of the total. What is a state, as live memory is, by itself.",
    )
    parser.add_argument("base", metavar="A", help="before: a file, a directory or an address")
    parser.add_argument("source", metavar="B", help="after: likewise")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Print the comparison; 2 when a source cannot be read."""
    try:
        before, after = load(args.base), load(args.source)
        kind = after.choose(args.type)
        before.choose(kind.name)
    except AgentError as error:
        print(f"conprof diff: {error}", file=sys.stderr)
        return 2
    tree = FlameTree()
    after.add_to(tree, kind.name)
    before.add_to(tree, kind.name, 1)
    # A state, such as live bytes, is what it is; of what flows, so much flows in a second.
    by_time = not kind.instant and before.seconds > 0 and after.seconds > 0
    own = base = 1.0
    if not kind.instant:
        own, base = _scale(after, kind.name, by_time), _scale(before, kind.name, by_time)
    groups = _groups(after, before, kind.name, args.by, own, base)
    functions = [
        row | {"before": row["base_self"] * base, "now": row["self"] * own} for row in tree.top()
    ]
    functions.sort(key=lambda row: -abs(row["now"] - row["before"]))
    head = {"base": args.base, "source": args.source, "type": kind.name, "unit": kind.unit}
    scaled = "state" if kind.instant else "per_second" if by_time else "share"
    head |= {"by": args.by, "scaled": scaled}
    if args.html:
        data = head | {"title": f"{args.base} → {args.source}", "rows": groups}
        data |= {"compared": True, "scales": [own, base]}
        data |= tree.to_json(limits.MAX_NODES_IN_ANSWER, compared=True)
        if not write_page(args.html, data, "diff"):
            return 2
    if args.json:
        print(json.dumps(head | {"rows": groups, "functions": functions[: args.limit]}, indent=2))
    elif not args.html:
        unit = "" if scaled == "share" else kind.unit
        rate = "/s" if by_time else ""
        what = {"state": "alive", "per_second": "per second", "share": "share of the total"}
        print(f"{kind.name}, {what[scaled]}\n")
        _print([row["value"] or "(none)" for row in groups], groups, args, args.by, unit, rate)
        print()
        names = [f"{row['function']}  {row['file']}".rstrip() for row in functions]
        _print(names, functions, args, "function, self", unit, rate)
    return 0


def _scale(loaded: Loaded, type_name: str, by_time: bool) -> float:
    return 1 / loaded.seconds if by_time else 1 / (loaded.total(type_name) or 1)


def _groups(
    after: Loaded, before: Loaded, type_name: str, key: str, own: float, base: float
) -> list[dict[str, Any]]:
    now, then = after.by_label(type_name, key), before.by_label(type_name, key)
    rows = [
        {"value": name, "before": then.get(name, 0) * base, "now": now.get(name, 0) * own}
        for name in sorted({*now, *then})
    ]
    return sorted(rows, key=lambda row: -abs(float(row["now"]) - float(row["before"])))


def _print(
    names: list[str],
    rows: list[dict[str, Any]],
    args: argparse.Namespace,
    title: str,
    unit: str,
    rate: str,
) -> None:
    def show(value: float) -> str:
        return f"{amount(value, unit)}{rate}" if unit else percent(value)

    lines = []
    for name, row in zip(names[: args.limit], rows[: args.limit], strict=True):
        change = row["now"] - row["before"]
        if not row["before"]:
            relative = "new" if row["now"] else ""
        else:
            relative = (
                signed(percent(abs(change / row["before"])), change) if row["now"] else "gone"
            )
        lines.append(
            [
                name,
                show(row["before"]),
                show(row["now"]),
                signed(show(abs(change)), change),
                relative,
            ]
        )
    print(render("", [title, "before", "after", "change", ""], lines))
