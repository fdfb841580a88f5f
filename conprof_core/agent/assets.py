"""The viewer's files: read once at start-up, so no path from a request ever reaches the disk."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

__all__ = ["viewer_file", "viewer_files"]

_MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


@lru_cache(maxsize=1)
def viewer_files() -> dict[str, tuple[bytes, str, str]]:
    """Return name → (content, media type, entity tag)."""
    found: dict[str, tuple[bytes, str, str]] = {}
    for entry in files("conprof_core.agent").joinpath("ui").iterdir():
        media_type = _MEDIA_TYPES.get("." + entry.name.rpartition(".")[2])
        if media_type is not None:
            content = entry.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
            found[entry.name] = (content, media_type, tag)
    return found


async def viewer_file(request: Request) -> Response:
    """Answer with a file of the viewer."""
    name = request.path_params["name"] or "index.html"
    known = viewer_files().get(name)
    if known is None:
        return PlainTextResponse("there is nothing at this address\n", 404)
    content, media_type, tag = known
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)
