"""What is answered, and the exception that carries an answer out of the depth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final, NamedTuple

__all__ = ["Answer", "Failed", "moved", "page", "profile", "refusal", "text", "values"]

_PLAIN: Final = "text/plain; charset=utf-8"
# No browser guesses a type, and no proxy hands one reader's profile to another.
_ALWAYS: Final = (("X-Content-Type-Options", "nosniff"), ("Cache-Control", "no-store"))


class Answer(NamedTuple):
    """A response, complete.

    Attributes:
        status: of HTTP.
        headers: name and value, in order; the length of the body is the last.
        body: not compressed further.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def status_line(self) -> str:
        """Return status and phrase, as WSGI wants them."""
        return f"{self.status} {HTTPStatus(self.status).phrase}"


class Failed(Exception):  # noqa: N818 - an answer, not an error of ours
    """Raised to give an answer from anywhere."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


def _answer(status: int, kind: str, body: bytes, *headers: tuple[str, str]) -> Answer:
    length = ("Content-Length", str(len(body)))
    return Answer(status, (("Content-Type", kind), *_ALWAYS, *headers, length), body)


def profile(name: str, body: bytes) -> Answer:
    """Return a gzip-compressed pprof; ``name`` is that of the file it is saved as."""
    disposition = ("Content-Disposition", f'attachment; filename="{name}"')
    return _answer(200, "application/octet-stream", body, disposition)


def text(body: str) -> Answer:
    """Return text for people."""
    return _answer(200, _PLAIN, body.encode("utf-8", "replace"))


def values(body: Mapping[str, object]) -> Answer:
    """Return JSON."""
    return _answer(200, "application/json", json.dumps(body, indent=2).encode() + b"\n")


def page(body: str) -> Answer:
    """Return a page that loads and runs nothing."""
    policy = ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
    return _answer(200, "text/html; charset=utf-8", body.encode("utf-8", "replace"), policy)


def refusal(status: int, reason: str, *headers: tuple[str, str]) -> Answer:
    """Return why not, as Go says it: the pprof tool prints the body where it sees the header."""
    return _answer(status, _PLAIN, f"{reason}\n".encode(), ("X-Go-Pprof", "1"), *headers)


def moved(place: str) -> Answer:
    """Return where it is, relative to what was asked for."""
    return _answer(301, _PLAIN, b"", ("Location", place))
