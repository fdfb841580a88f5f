"""Pure ASGI middleware: labels ``http`` and ``websocket``, passes everything else through."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final

from conprof_asgi.routes import RouteFinder
from conprof_core import (
    UNMATCHED,
    ConprofError,
    LabelSet,
    Profiler,
    http_labels,
    is_running,
    request_scope,
    swallow,
)

if TYPE_CHECKING:
    from conprof_core.pull import PullASGI

__all__ = ["ConprofMiddleware"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_MARK: Final = "conprof"
_log = logging.getLogger("conprof.asgi")


class ConprofMiddleware:
    """Profile an ASGI application: ``app = ConprofMiddleware(app)``.

    For Starlette and FastAPI also ``app.add_middleware(ConprofMiddleware, **options)``; add it
    last, so that it stands outermost. Options are those of ``conprof_core.start()``.

    The profiler starts with the lifespan, or with the first request where there is none, so in
    every worker and in no supervising process. Mounted applications may have the middleware
    too: the outermost one counts. Nothing here raises into the application.

    With ``pull=True`` it answers ``/debug/pprof/`` itself.

    Raises:
        ConfigError: an option cannot be used.
    """

    def __init__(self, app: ASGIApp, **options: Any) -> None:
        self.app = app
        self._started = False
        self._routes: RouteFinder | None = None
        self._profiler: Profiler | None = None
        self._pull: PullASGI | None = None
        try:
            self._routes = RouteFinder(app)
            self._profiler = Profiler(**options)
            self._pull = _pull(self._profiler)
        except ConprofError:
            raise
        except Exception as error:
            swallow("asgi", error)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        request: _Request | None = None
        try:
            if not self._started and kind in ("lifespan", "http", "websocket"):
                self._start()
            is_pull = self._pull is not None and self._pull.takes(scope)
            if not is_pull and kind in ("http", "websocket") and _MARK not in scope:
                request = self._enter(scope, send)
        except Exception as error:
            is_pull = False
            swallow("asgi", error)
        if self._pull is not None and is_pull:
            await self._pull(scope, receive, send)
        elif request is None:
            await self.app(scope, receive, send)
        else:
            try:
                await self.app(scope, receive, request.send if kind == "http" else send)
            finally:
                request.end()

    def _start(self) -> None:
        self._started = True
        try:
            if self._profiler is not None:
                self._profiler.start()
        except ConprofError as error:
            _log.warning("%s", error)

    def _enter(self, scope: Scope, send: Send) -> _Request | None:
        """Label what this context does, while a profiler runs."""
        if self._routes is None or not is_running():
            return None
        request = _Request(scope, send, self._routes)
        request.enter()
        scope[_MARK] = True
        return request


def _pull(profiler: Profiler) -> PullASGI | None:
    if not profiler.config.pull or profiler.config.disabled:
        return None
    # Imported here: few want it.
    from conprof_core.pull import PullASGI

    return PullASGI(profiler.config)


class _Request:
    """What is known about one request. Routers leave what they matched in the scope."""

    __slots__ = ("_labels", "_root", "_routes", "_scope", "_send", "_status", "method")

    def __init__(self, scope: Scope, send: Send, routes: RouteFinder) -> None:
        self._scope = scope
        self._root = scope.get("app")
        self._routes = routes
        self._send = send
        self._status = 0
        self.method: str = scope.get("method", "")  # a WebSocket has none
        self._labels = request_scope(http_labels(self.method), self.labels)

    def enter(self) -> None:
        """Label what this context does from here on."""
        self._labels.enter()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        await self._send(message)

    def labels(self) -> LabelSet | None:
        """The labels, or ``None`` while no route is known. Also called from another thread."""
        route = self._routes.find(self._root, self._scope)
        return None if route is None else http_labels(self.method, route)

    def end(self) -> None:
        """Bind what is known in the end, and put back what was there. Never raises."""
        try:
            self._labels.bind(self.final_labels())
        except Exception as error:
            swallow("asgi", error)
        finally:
            self._labels.exit()

    def final_labels(self) -> LabelSet:
        """The labels once the application has returned."""
        route = self._routes.find(self._root, self._scope) or UNMATCHED
        return http_labels(self.method, route, self._status // 100)
