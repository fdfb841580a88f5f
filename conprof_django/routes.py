"""From what Django calls a route to a template that people can read."""

from __future__ import annotations

import functools
import re
from typing import Final

__all__ = ["readable"]

_REGEX: Final = re.compile(r"[\^$(\\\[]")
_QUANTIFIER: Final = re.compile(r"[*+?]|\{\d*,?\d*\}")
_ANY: Final = "*"


@functools.lru_cache(maxsize=4_096)
def readable(route: str) -> str:
    r"""Return ``/shop/<int:pk>/`` for ``shop/<int:pk>/``, and the same kind of text for a regex.

    ``include()`` has joined the parts already, and each may be a ``path()`` or a regex, as Django
    REST framework's routers make them: ``api/users/(?P<pk>[^/.]+)/$`` becomes ``/api/users/<pk>/``.
    Unnamed groups become ``<var>``, as in Django's own documentation generator.
    """
    text = route if _REGEX.search(route) is None else _simplify(route)
    return text if text.startswith("/") else f"/{text}"


def _simplify(regex: str) -> str:
    out: list[str] = []
    at = 0
    while at < len(regex):
        char = regex[at]
        if char == "(":
            end = _closing(regex, at)
            out.append(_group(regex[at + 1 : end]))
        elif char == "[":
            end = _class_end(regex, at)
            out.append(_ANY)
        elif char == "\\":
            end = at + 1
            out.append(_escape(regex[end : end + 1]))
        else:
            end = at
            out.append("" if char in "^$" else char)
        at = end + 1
        quantifier = _QUANTIFIER.match(regex, at)
        while quantifier is not None:
            if out[-1] == "." and quantifier[0] in "*+":
                out[-1] = _ANY
            at = quantifier.end()
            quantifier = _QUANTIFIER.match(regex, at)
    return "".join(out)


def _group(content: str) -> str:
    named = re.match(r"\?P<(\w+)>", content)
    if named is not None:
        return f"<{named[1]}>"
    if content.startswith("?:"):
        return _simplify(content[2:])
    return "" if content.startswith("?") else "<var>"


def _escape(char: str) -> str:
    if char in "AbBZz":  # anchors; also the empty string of a trailing backslash
        return ""
    return _ANY if char in "dDsSwW" else char


def _closing(regex: str, at: int) -> int:
    """Index of the parenthesis that closes the one at ``at``."""
    depth = 0
    while at < len(regex):
        char = regex[at]
        if char == "\\":
            at += 1
        elif char == "[":
            at = _class_end(regex, at)
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
            if depth == 0:
                return at
        at += 1
    return len(regex)


def _class_end(regex: str, at: int) -> int:
    """Index of the bracket that closes the character class opened at ``at``."""
    at += 2 if regex[at + 1 : at + 2] == "^" else 1
    if regex[at : at + 1] == "]":  # a literal one, when it comes first
        at += 1
    while at < len(regex) and regex[at] != "]":
        at += 2 if regex[at] == "\\" else 1
    return at
