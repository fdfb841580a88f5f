"""Body of an upload → its parts. First step of the intake; knows nothing of profiles.

The whole body is in memory and bounded by then, so this is one pass of ``bytes.find``: no state
machine to confuse. Only what probes send is understood (RFC 7578 without nested parts or transfer
encodings); everything else is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from conprof_core.agent import limits
from conprof_core.agent.errors import UploadRefusedError

__all__ = ["Part", "boundary_of", "split"]

_BOUNDARY: Final = re.compile(r';\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_PARAMETER: Final = re.compile(r';\s*(name|filename)="([^"]*)"', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    """One part; ``filename`` is empty for a plain form field."""

    name: str
    filename: str
    content: bytes


def boundary_of(content_type: str) -> bytes:
    """Return the boundary that a ``Content-Type`` names.

    Raises:
        UploadRefusedError: it is not ``multipart/form-data``, or names no boundary.
    """
    if not content_type.lower().lstrip().startswith("multipart/form-data"):
        raise UploadRefusedError("an upload is multipart/form-data", 415)
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise UploadRefusedError("the Content-Type names no multipart boundary")
    return (found[1] or found[2]).encode("latin-1", "replace")


def split(body: bytes, boundary: bytes) -> list[Part]:
    """Return the parts in the order they came.

    Raises:
        UploadRefusedError: the body is cut off, malformed or has too many parts.
    """
    delimiter = b"--" + boundary
    if not body.startswith(delimiter):
        start = body.find(b"\r\n" + delimiter)
        if start < 0:
            raise UploadRefusedError("the body does not hold the boundary its Content-Type names")
        position = start + 2 + len(delimiter)
    else:
        position = len(delimiter)
    parts: list[Part] = []
    while True:
        if body[position : position + 2] == b"--":
            return parts
        if body[position : position + 2] != b"\r\n":
            raise UploadRefusedError("malformed multipart boundary line")
        if len(parts) == limits.MAX_PARTS:
            raise UploadRefusedError(f"more than {limits.MAX_PARTS} parts", 413)
        # Back by the line end that the boundary line and an empty header block share.
        head_end = body.find(b"\r\n\r\n", position, position + limits.MAX_PART_HEADERS)
        if head_end < 0:
            raise UploadRefusedError("the headers of a part have no end")
        end = body.find(b"\r\n" + delimiter, head_end + 2)
        if end < 0:
            raise UploadRefusedError("the body ends inside a part")
        name, filename = _disposition(body[position + 2 : head_end])
        parts.append(Part(name, filename, body[head_end + 4 : end]))
        position = end + 2 + len(delimiter)


def _disposition(head: bytes) -> tuple[str, str]:
    for line in head.decode("utf-8", "replace").split("\r\n"):
        key, _, value = line.partition(":")
        if key.strip().lower() == "content-disposition":
            found = {name.lower(): text for name, text in _PARAMETER.findall(value)}
            return found.get("name", ""), found.get("filename", "")
    raise UploadRefusedError("a part has no Content-Disposition")
