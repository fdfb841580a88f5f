"""Pure ASGI middleware: labels ``http`` and ``websocket``, passes everything else through."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

from conprof_asgi.routes import RouteFinder
from conprof_core import ConprofError, Profiler, is_running, request_scope

__all__ = ["ConprofMiddleware"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_MARK: Final = "conprof"
_METHODS: Final[Mapping[str, Mapping[str, str]]] = {
    method: {"http.request.method": method}
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
}
# A method is whatever the client sends: unknown ones share one label, as in OpenTelemetry.
_OTHER: Final[Mapping[str, str]] = {"http.request.method": "_OTHER"}
_WEBSOCKET: Final[Mapping[str, str]] = {}

_log = logging.getLogger("conprof.asgi")


class ConprofMiddleware:
    """Profile an ASGI application: ``app = ConprofMiddleware(app)``.

    For Starlette and FastAPI also ``app.add_middleware(ConprofMiddleware, **options)``; add it
    last, so that it stands outermost. Options are those of ``conprof_core.start()``.

    The profiler starts with the lifespan, or with the first request where there is none, so in
    every worker and in no supervising process. Mounted applications may have the middleware
    too: the outermost one counts. Nothing here raises into the application.

    Raises:
        ConfigError: an option cannot be used.
    """

    def __init__(self, app: ASGIApp, **options: Any) -> None:
        self.app = app
        self._profiler = Profiler(**options)
        self._routes = RouteFinder(app)
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if not self._started and kind in ("lifespan", "http", "websocket"):
            self._start()
        if kind == "http":
            base = _METHODS.get(scope["method"], _OTHER)
        elif kind == "websocket":
            base = _WEBSOCKET
        else:
            await self.app(scope, receive, send)
            return
        if _MARK in scope or not is_running():
            await self.app(scope, receive, send)
            return
        request = _Request(scope, send, self._routes)
        scope[_MARK] = True
        request_labels = request_scope(base, request.labels)
        request_labels.enter()
        try:
            await self.app(scope, receive, request.send if kind == "http" else send)
        finally:
            request_labels.bind(request.final_labels())
            request_labels.exit()

    def _start(self) -> None:
        self._started = True
        try:
            self._profiler.start()
        except ConprofError as error:
            _log.warning("%s", error)


class _Request:
    """What is known about one request. Routers leave what they matched in the scope."""

    __slots__ = ("_root", "_routes", "_scope", "_send", "_status")

    def __init__(self, scope: Scope, send: Send, routes: RouteFinder) -> None:
        self._scope = scope
        self._root = scope.get("app")
        self._routes = routes
        self._send = send
        self._status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        await self._send(message)

    def labels(self) -> Mapping[str, str] | None:
        """The labels, or ``None`` while no route is known. Also called from another thread."""
        route = self._routes.find(self._root, self._scope)
        return None if route is None else {"http.route": route}

    def final_labels(self) -> Mapping[str, str]:
        """The labels once the application has returned."""
        route = self._routes.find(self._root, self._scope) or "<unmatched>"
        if not self._status:
            return {"http.route": route}
        return {
            "http.route": route,
            "http.response.status_class": f"{self._status // 100}xx",
        }
