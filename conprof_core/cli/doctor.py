"""``conprof doctor``: what works here, what does not, and why; for people, or as JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any, TextIO

from conprof_core._config import load
from conprof_core.cli._facts import collect

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the parser of this verb."""
    parser = subparsers.add_parser(
        "doctor",
        help="say what works here, what does not, and why",
        description="Say which engine runs here and why, what is configured and from where, and "
        "whether profiles can be delivered. The exit status is 1 when there is a problem.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    parser.add_argument(
        "--send", action="store_true", help="profile for a moment and send the result"
    )


def run(args: argparse.Namespace) -> int:
    """Report; 1 when there is a problem."""
    report = collect(load({}), send=args.send)
    if args.json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        _Page(sys.stdout).show(report)
    return 1 if report["problems"] else 0


class _Page:
    """The report for people: one fact a line, colour on terminals only."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._colour = (
            out.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        )

    def show(self, report: dict[str, Any]) -> None:
        python, kernel, engine = report["python"], report["kernel"], report["engine"]
        self._head(f"conprof {report['conprof']}")
        threads = ", free-threaded build" if python["free_threaded_build"] else ""
        self._line("Python", f"{python['implementation']} {python['version']}{threads}")
        self._line("", python["executable"])
        ticks = f", {kernel['timer_hz']} timer ticks a second" if "timer_hz" in kernel else ""
        self._line("System", f"{python['platform']}, kernel {kernel['release']}{ticks}")
        self._head("Engine")
        self._line(engine["name"] or "none", engine.get("how", ""), good=engine["name"] == "native")
        if "signal" in engine:
            self._line("", f"signal: {engine['signal']}")
        if engine["reason"]:
            self._line("", f"because {engine['reason']}")
        self._head("Configuration")
        self._configuration(report["configuration"])
        self._control(report["control"])
        self._head("Destinations")
        for place in report["destinations"]:
            state = {True: "reachable", False: "not reachable", None: "not checked"}
            self._line(state[place["reachable"]], place["target"], good=place["reachable"])
            if place["reachable"] is False:
                self._line("", place["detail"])
        if "sent" in report:
            self._head("Sent")
        for sent in report.get("sent", ()):
            word = "delivered" if sent["delivered"] else "not delivered"
            self._line(word, sent["target"], good=sent["delivered"])
            self._line("", f"{sent['detail']} ({sent['seconds']:.2f} s)")
            if sent["hint"]:
                self._line("", sent["hint"])
        self._problems(report["problems"])

    def _control(self, control: dict[str, Any]) -> None:
        """What a process begins with, where that is not simply what is configured."""
        if "file" not in control and "signal" not in control and control["enabled"]:
            return
        self._head("Control")
        word = "on" if control["enabled"] else "standby"
        self._line(word, f"from {control['sources']['enabled']}", good=control["enabled"])
        if "file" in control:
            file = control["file"]
            self._line("file", file["path"] + (f": {file['trouble']}" if file["trouble"] else ""))
            for name, source in control["sources"].items():
                if source.startswith("file ") and name != "enabled":
                    self._line("", f"{name} = {_text(control[name])}")
        if "signal" in control:
            self._line("signal", f"{control['signal']['name']} turns profiling off and on")

    def _configuration(self, rows: list[dict[str, Any]]) -> None:
        name_width = max(len(row["option"]) for row in rows)
        values = [_text(row["value"]) for row in rows]
        value_width = min(44, max(map(len, values)))
        for row, value in zip(rows, values, strict=True):
            source = row["source"]
            if source == "default":
                source = f"default ({', '.join(row['variables'])})"
                source = self._paint(source, "2")
            self._print(f"  {row['option']:<{name_width}}  {value:<{value_width}}  {source}")

    def _problems(self, problems: list[str]) -> None:
        self._head("Problems" if problems else "No problems found")
        for problem in problems:
            self._print(f"  {self._paint('•', '31')} {problem}")

    def _head(self, text: str) -> None:
        self._print(f"\n{self._paint(text, '1')}")

    def _line(self, label: str, text: str, *, good: bool | None = None) -> None:
        padded = f"{label:<14}"
        if good is not None:
            padded = self._paint(padded, "32" if good else "31")
        self._print(f"  {padded}{text}".rstrip())

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text

    def _print(self, text: str) -> None:
        print(text, file=self._out)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
