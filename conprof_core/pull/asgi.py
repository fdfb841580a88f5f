"""The handler as an ASGI application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from conprof_core.pull.handler import Pull
from conprof_core.pull.request import Request, path_of_scope

if TYPE_CHECKING:
    from conprof_core import Config

__all__ = ["PullASGI"]

_Scope = MutableMapping[str, Any]
_Message = MutableMapping[str, Any]


class PullASGI:
    """Serves ``/debug/pprof/``; what ``takes()`` says no to goes to the application.

    Args:
        config: of the profiler that is read.
    """

    def __init__(self, config: Config) -> None:
        self._pull = Pull(config)

    def takes(self, scope: _Scope) -> bool:
        """Tell whether a request is for this handler."""
        return scope["type"] == "http" and path_of_scope(scope) is not None

    async def __call__(
        self,
        scope: _Scope,
        receive: Callable[[], Awaitable[_Message]],
        send: Callable[[_Message], Awaitable[None]],
    ) -> None:
        """Answer one request."""

        async def gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        found = await self._pull.answer_async(Request.of_scope(scope), gone)
        if found is None:
            return
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in found.headers
        ]
        await send({"type": "http.response.start", "status": found.status, "headers": headers})
        await send({"type": "http.response.body", "body": found.body})
