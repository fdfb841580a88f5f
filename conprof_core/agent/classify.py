"""File of a function → the module it is shown under, and whether it is the user's own code.

Judged by the path alone, for any machine's layout: nothing here touches a disk.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

__all__ = ["classify"]

_PACKAGES: Final = re.compile(r"(?:^|[/\\])(?:site|dist)-packages[/\\]([^/\\]+)")
_STDLIB: Final = re.compile(r"[/\\](?:python|pypy)\d[\d.]*t?[/\\](.+)$", re.IGNORECASE)
_WINDOWS_STDLIB: Final = re.compile(r"[/\\]Python\d+[/\\]Lib[/\\](.+)$", re.IGNORECASE)
_GO_MODULE: Final = re.compile(r"(?:^|/)(?:pkg/mod|vendor)/((?:[^/@]+/)*[^/@]+)@?")
_GO_STDLIB: Final = re.compile(r"(?:^|/)(?:go|golang)[\d.]*/src/([^/]+)")
_SUFFIX: Final = re.compile(r"(?:\.cpython[\w-]*|\.abi3)?\.(?:py[cx]?|so|pyd|go|c|rs)$")


@lru_cache(maxsize=65_536)
def classify(name: str, file: str) -> tuple[str, str]:
    """Return (module, kind); kind is ``own``, ``library``, ``stdlib`` or ``runtime``."""
    if not file:
        return _without_file(name)
    if file.startswith("<frozen "):
        return file[8:-1].partition(".")[0] or "frozen", "stdlib"
    if file in ("<native>", "<built-in>"):
        return "native", "runtime"
    if file.startswith("<"):
        return file, "own"  # <string>, <stdin>, <template>: somebody's exec
    found = _PACKAGES.search(file)
    if found:
        return _SUFFIX.sub("", found[1]), "library"
    found = _STDLIB.search(file) or _WINDOWS_STDLIB.search(file)
    if found:
        first = re.split(r"[/\\]", found[1])[0]
        return _SUFFIX.sub("", first), "stdlib"
    found = _GO_MODULE.search(file)
    if found:
        return found[1], "library"
    found = _GO_STDLIB.search(file)
    if found:
        return found[1], "stdlib"
    pieces = [piece for piece in re.split(r"[/\\]", file) if piece]
    if not pieces:
        return "unknown", "own"
    pieces[-1] = _SUFFIX.sub("", pieces[-1])
    return ".".join(pieces[-2:]), "own"


def _without_file(name: str) -> tuple[str, str]:
    if name.startswith(("[", "<")):
        return "runtime", "runtime"
    if "/" in name or re.match(r"[a-z]\w*\.[(A-Za-z]", name):  # Go: package/path.Func
        package = name.rpartition("/")[2].partition(".")[0]
        is_own = "/" not in name and package == "main"
        return package or "native", "own" if is_own else "library"
    return "native", "runtime"
