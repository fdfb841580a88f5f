"""How much stack a function of the extension may need, from the compiler's own numbers.

gcc writes the frame of each function and who calls whom (``-fcallgraph-info=su``); the deepest path
is the largest sum along the calls. Calls through pointers count nothing, and functions of other
libraries count what the caller says.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2] / "conprof_core" / "_native"

# As setup.py builds it; what a frame takes depends on these.
FLAGS = ("-std=gnu11", "-O2", "-g", "-fvisibility=hidden", "-fno-omit-frame-pointer", "-fPIC")

_NODE = re.compile(r'^node: \{ title: "([^"]*)" label: "([^"]*)"')
_EDGE = re.compile(r'^edge: \{ sourcename: "([^"]*)" targetname: "([^"]*)"')
_BYTES = re.compile(r"(\d+) bytes \((\w+)")
_INDIRECT = "__indirect_call"


class CannotTell(Exception):  # noqa: N818 - a state of this machine, not an error
    """Raised where no compiler here gives the numbers; says what is missing."""


@dataclass(frozen=True)
class Depth:
    """The deepest path of a function: its bytes, and the functions along it."""

    bytes: int
    path: tuple[str, ...]


@dataclass
class CallGraph:
    """Frames and calls of the whole extension; functions of one file are named ``file.c:name``."""

    frames: dict[str, int] = field(default_factory=dict)
    calls: dict[str, set[str]] = field(default_factory=dict)

    def find(self, name: str) -> list[str]:
        """Return the functions of this name, static ones and those that gcc has split."""
        pattern = re.compile(rf"(^|:){re.escape(name)}(\.(isra|constprop|part)\.\d+)*$")
        return [title for title in self.frames if pattern.search(title)]

    def outside(self, name: str) -> set[str]:
        """Return the functions of other libraries that one reaches."""
        seen: set[str] = set()
        waiting = self.find(name)
        while waiting:
            title = waiting.pop()
            if title not in seen:
                seen.add(title)
                waiting += self.calls.get(title, ())
        return {title for title in seen if title not in self.frames and title != _INDIRECT}

    def deepest(self, name: str, outside: Mapping[str, int] | None = None) -> Depth:
        """Return the deepest path from a function on.

        Args:
            name: as the source calls it.
            outside: bytes of functions of other libraries; one that is not named counts nothing.
        """
        titles = self.find(name)
        if not titles:
            raise LookupError(f"no function {name} in the extension")
        known: dict[str, Depth] = {}
        return max(
            (self._deepest(title, outside or {}, known, ()) for title in titles),
            key=lambda depth: depth.bytes,
        )

    def _deepest(
        self,
        title: str,
        outside: Mapping[str, int],
        known: dict[str, Depth],
        above: tuple[str, ...],
    ) -> Depth:
        if title not in self.frames:
            return Depth(outside.get(title, 0), (title,))
        if title in above:
            raise RecursionError(f"no bound: {title} calls itself by way of {above}")
        if title not in known:
            below = [
                self._deepest(called, outside, known, (*above, title))
                for called in self.calls.get(title, ())
                if called != _INDIRECT
            ]
            most = max(below, key=lambda depth: depth.bytes, default=Depth(0, ()))
            own = self.frames[title]
            known[title] = Depth(own + most.bytes, (f"{title} {own}", *most.path))
        return known[title]


def compiler() -> str:
    """Return the gcc of this machine.

    Raises:
        CannotTell: there is none, or it cannot tell who calls whom (before version 10).
    """
    found = shutil.which("gcc")
    if found is None:
        raise CannotTell("gcc is not installed, and other compilers do not tell who calls whom")
    probe = subprocess.run(
        [found, "-fcallgraph-info=su", "-x", "c", "-c", "-o", "/dev/null", "/dev/null"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/tmp",
    )
    if probe.returncode != 0:
        raise CannotTell(f"{found} knows no -fcallgraph-info: {probe.stderr.strip()[:200]}")
    return found


def call_graph(directory: Path) -> CallGraph:
    """Compile the extension's sources into a directory and return what the compiler says of them.

    Raises:
        CannotTell: see ``compiler``.
    """
    include = sysconfig.get_path("include")
    if not Path(include, "Python.h").exists():
        raise CannotTell("the headers of this interpreter are not installed")
    gcc = compiler()
    graph = CallGraph()
    for source in sorted(SOURCES.glob("*.c")):
        subprocess.run(
            [
                *(gcc, *FLAGS, "-DNDEBUG", "-DPy_BUILD_CORE_MODULE=1", f"-I{include}"),
                *("-fcallgraph-info=su", "-c", str(source), "-o", f"{source.stem}.o"),
            ],
            check=True,
            cwd=directory,
            timeout=120,
        )
        _read(Path(directory, f"{source.stem}.ci"), graph)
    return graph


def _read(file: Path, graph: CallGraph) -> None:
    def plain(title: str) -> str:
        return title.rsplit("/", 1)[-1]

    for line in file.read_text(encoding="utf-8").splitlines():
        if node := _NODE.match(line):
            if frame := _BYTES.search(node[2]):
                graph.frames[plain(node[1])] = int(frame[1])
        elif edge := _EDGE.match(line):
            graph.calls.setdefault(plain(edge[1]), set()).add(plain(edge[2]))


def constants(header: str) -> dict[str, int]:
    """Return the numbers that a header of the extension defines."""
    text = Path(SOURCES, header).read_text(encoding="utf-8")
    return {
        name: int(number, 0)
        for name, number in re.findall(r"^#define (\w+) (\d\w*?)[uUlL]*$", text, re.MULTILINE)
    }
