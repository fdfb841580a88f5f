"""``/debug/pprof/`` inside Django: from its requests, to its responses."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final

from django.http import HttpRequest, HttpResponse

if TYPE_CHECKING:
    from conprof_core.pull import Answer, Pull, Request

__all__ = ["PREFIX", "answer"]

PREFIX: Final = "/debug/pprof"


def answer(
    pull: Pull, request: HttpRequest, *, is_async: bool
) -> HttpResponse | Awaitable[HttpResponse] | None:
    """Return the response, or what is awaited for it; ``None`` for what is the application's."""
    from conprof_core.pull import Request

    scope: Any = getattr(request, "scope", None)
    asked = Request.of_environ(request.META) if scope is None else Request.of_scope(scope)
    if asked.path is None:
        return None
    return _answer_async(pull, asked) if is_async else _response(pull.answer(asked))


async def _answer_async(pull: Pull, asked: Request) -> HttpResponse:
    # Django ends the task of a request whose client has gone.
    found = await pull.answer_async(asked)
    assert found is not None, "nobody can go unnoticed"
    return _response(found)


def _response(found: Answer) -> HttpResponse:
    return HttpResponse(found.body, status=found.status, headers=dict(found.headers))
