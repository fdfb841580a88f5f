"""Copies of CPython's headers, or of our sources, in which one structure has another layout.

Two kinds: ``added`` has a pointer more before the member, as when a patch release inserts or
appends a field; ``removed`` lacks the nearest member before it that can go, as in the release
before that, or has it behind the member where CPython's own inline functions need it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from layout.fields import FIELDS, Field

__all__ = ["KINDS", "NoSuchCell", "doctor", "is_different"]

KINDS = ("added", "removed")
_OURS = {field.member for field in FIELDS}
_DECLARATION = re.compile(r"^\s*[A-Za-z_][\w\s*]*[\s*]([\w#]+)\s*(\[[^\]]*\])?(\s*:\s*\d+)?\s*;")


class NoSuchCell(Exception):  # noqa: N818 - a state, not an error
    """This version has no such structure or member, or nothing before it that can go."""


@dataclass
class _Body:
    """A structure's text: lines ``first`` up to ``end`` of a file."""

    path: Path
    lines: list[str]
    first: int
    end: int


def _bodies(root: Path, field: Field) -> list[_Body]:
    """Every definition of the structure below ``root``."""
    found = []
    for path in sorted(root.rglob("*.[ch]")):
        text = path.read_text(errors="replace")
        for match in re.finditer(field.opening, text):
            end = _end_of(text, match)
            first_line = text.count("\n", 0, match.end()) + 1
            last_line = text.count("\n", 0, end)
            found.append(_Body(path, text.split("\n"), first_line, last_line))
    return found


def _end_of(text: str, match: re.Match[str]) -> int:
    """Where the brace that the match ends with is closed, or its macro ends."""
    at = match.end()
    if not match.group().rstrip().endswith("{"):
        while text[text.index("\n", at) - 1] == "\\":
            at = text.index("\n", at) + 1
        return text.index("\n", at) + 1
    depth = 1
    while depth:
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        at += 1
    return at - 1


def _member_line(body: _Body, field: Field) -> int | None:
    """The line that declares the member at the structure's own level, or ``None``."""
    spelled = field.member.replace("gi_", "(?:gi_|prefix##_)")
    declares = re.compile(rf"[\s*]{spelled}\s*(\[[^\]]*\])?(\s*:\s*\d+)?\s*[,;]")
    opens = re.compile(rf"^\s*\}}\s*{spelled}\s*;")
    depth = 0
    begins = body.first
    for number in range(body.first, body.end):
        code = re.sub(r"/\*.*?\*/|//.*", "", body.lines[number])
        before = depth
        depth += code.count("{") - code.count("}")
        if before == 0 and depth == 1:
            begins = number
        if before == 0 and depth == 0 and declares.search(code):
            return number
        if before == 1 and depth == 0 and opens.search(code):
            return begins
    return None


def _removable(body: _Body, at: int) -> list[int]:
    """Lines before ``at`` that declare one member which we do not read, nearest first."""
    found = []
    for number in range(at - 1, body.first - 1, -1):
        declares = _DECLARATION.match(re.sub(r"/\*.*?\*/|//.*", "", body.lines[number]))
        if declares and declares.group(1).replace("prefix##_", "gi_") not in _OURS:
            found.append(number)
    return found


def _after(rest: list[str], at: int, line: str) -> list[str]:
    """``line`` behind the one that stood at ``at`` before another one was taken out."""
    return [*rest[:at], line, *rest[at:]]


def _write(body: _Body, lines: list[str]) -> None:
    body.path.write_text("\n".join(lines))


def doctor(
    original: Path, copy: Path, field: Field, kind: str, is_valid: Callable[[Path], bool]
) -> str:
    """Make ``copy`` of a directory, doctored; return what was changed.

    ``is_valid`` is asked, with the copy, whether that can be compiled and differs.
    """
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(original, copy)
    for body in _bodies(copy, field):
        at = _member_line(body, field)
        if at is None:
            continue
        where = f"{body.path.relative_to(copy)}:{at + 1}"
        more = " \\" if body.lines[at].endswith("\\") else ""
        if kind == "added":
            line = f"    void *conprof_doctored;{more}"
            _write(body, [*body.lines[:at], line, *body.lines[at:]])
            if is_valid(copy):
                return f"a pointer before {where}"
            raise NoSuchCell(f"does not compile with a pointer before {where}")
        for gone in _removable(body, at):
            line = body.lines[gone]
            rest = body.lines[:gone] + body.lines[gone + 1 :]
            for how, lines in (("without", rest), ("behind, not before:", _after(rest, at, line))):
                _write(body, lines)
                if is_valid(copy):
                    return f"{how} `{line.split(';')[0].strip()}` before {where}"
        raise NoSuchCell("nothing before it can go")
    raise NoSuchCell("not in this version")


def is_different(real: list[str], doctored: list[str], field: Field, source: Path) -> bool:
    """Whether the member lies elsewhere with these compiler flags; ``source`` is written."""
    place = f"offsetof({field.type}, {field.within}{field.member})"
    source.write_text(f'#include "compat.h"\nconst unsigned long at = {place};\n')
    texts = []
    for flags in (real, doctored):
        done = subprocess.run(
            ["gcc", "-S", "-o", "-", *flags, str(source)], capture_output=True, text=True
        )
        if done.returncode != 0:
            return False
        texts.append(done.stdout)
    return texts[0] != texts[1]
