"""A profile → one HTML file with the flame graph, that needs nothing else and asks nobody.

The viewer's modules are put into one script, each in a function of its own; a hash in the file's
content security policy lets that script run and no other.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib.resources import files
from typing import Any, Final

__all__ = ["page"]

_ENTRY: Final = "report.js"
_IMPORT: Final = re.compile(
    r'^import\s+(\{[^}]*\}|\*\s+as\s+\w+)\s+from\s+"\./([\w.]+)";$', re.MULTILINE
)
_EXPORT: Final = re.compile(r"^export (?:async )?(?:function|class|const|let) (\w+)", re.MULTILINE)

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; \
form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>conprof report</title>
<style>{style}</style></head><body><div id="app"></div>
<script type="application/json" id="profile">{data}</script>
<script>{script}</script></body></html>
"""


def page(data: dict[str, Any]) -> str:
    """Return the page; ``data`` is what ``ui/report.js`` reads."""
    script = _bundle(_ENTRY)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # In a script element only "</" and "<!--" would end or confuse the data.
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True).replace("<", "\\u003c")
    style = _text("style.css") + _text("parts.css")
    return _PAGE.format(digest=digest, style=style, data=text, script=script)


def _text(name: str) -> str:
    return files("conprof_core.agent").joinpath("ui", name).read_text("utf-8")


def _bundle(entry: str) -> str:
    done: dict[str, str] = {}

    def visit(name: str) -> None:
        if name in done:
            return
        source = _text(name)
        done[name] = ""  # holds the place; the modules import each other in one direction only
        for _, imported in _IMPORT.findall(source):
            visit(imported)
        del done[name]
        done[name] = _module(name, source)

    visit(entry)
    return '"use strict";\n' + "\n".join(done.values())


def _variable(name: str) -> str:
    return "module_" + re.sub(r"\W", "_", name)


def _module(name: str, source: str) -> str:
    def replace(found: re.Match[str]) -> str:
        what, imported = found[1], _variable(found[2])
        if what.startswith("*"):
            return f"const {what.split()[-1]} = {imported};"
        return f"const {what} = {imported};"

    names = ", ".join(_EXPORT.findall(source))
    body = re.sub(r"^export ", "", _IMPORT.sub(replace, source), flags=re.MULTILINE)
    return f"const {_variable(name)} = (() => {{\n{body}\nreturn {{ {names} }};\n}})();"
