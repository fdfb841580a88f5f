"""The middleware, sync and async in one class: labels a request until its body ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponseBase, StreamingHttpResponse

from conprof_core import (
    UNMATCHED,
    LabelSet,
    RequestScope,
    http_labels,
    is_running,
    labels,
    request_scope,
    swallow,
)
from conprof_django import conf, pull
from conprof_django.routes import readable

if TYPE_CHECKING:
    from conprof_core.pull import Pull

__all__ = ["ConprofMiddleware"]


class ConprofMiddleware:
    """Label what a request uses with its route, and start the profiler with the first request.

    So every worker of every server profiles itself, and no management command, autoreloader or
    preloading arbiter does: they instantiate middleware, but serve nothing.

    Neither ``process_view`` nor a second URL resolution: the route is read from
    ``request.resolver_match`` once the view has run, or when a window closes meanwhile. Under ASGI
    a ``process_view`` would cost every request a thread hop.
    """

    sync_capable = True
    async_capable = True

    def __init__(
        self,
        get_response: Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]],
    ) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        self._started = False
        self._by_view_name = False
        self._pull: Pull | None = None
        try:
            self._by_view_name = conf.label_style() == "view_name"
            self._pull = conf.pull()
        except Exception as error:
            swallow("django", error)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        try:
            if not self._started:
                # Flagged when it is done: a request in another thread waits, or it would go
                # unlabelled.
                conf.start()
                self._started = True
            if self._pull is not None and request.path_info.startswith(pull.PREFIX):
                answer = pull.answer(self._pull, request, is_async=self._is_async)
                if answer is not None:
                    return answer
        except Exception as error:
            swallow("django", error)
        if self._is_async:
            return self._serve_async(request)
        scope = self._enter(request)
        try:
            response = cast("HttpResponseBase", self.get_response(request))
        except BaseException:
            self._end(scope, request, None)
            raise
        self._end(scope, request, response)
        return response

    async def _serve_async(self, request: HttpRequest) -> HttpResponseBase:
        scope = self._enter(request)
        try:
            response = await cast("Awaitable[HttpResponseBase]", self.get_response(request))
        except BaseException:
            self._end(scope, request, None)
            raise
        self._end(scope, request, response)
        return response

    def _enter(self, request: HttpRequest) -> RequestScope | None:
        """Label what this context does, while a profiler runs. Never raises."""
        try:
            if is_running():
                base = http_labels(request.method or "")
                return request_scope(base, lambda: self._labels(request)).enter()
        except Exception as error:
            swallow("django", error)
        return None

    def _end(
        self, scope: RequestScope | None, request: HttpRequest, response: HttpResponseBase | None
    ) -> None:
        """Bind the scope and leave it; what is streamed later is labelled, too. Never raises."""
        if scope is None:
            return
        try:
            bound = self._final_labels(request, response)
            scope.bind(bound)
            if response is not None:
                _label_body(response, bound)
        except Exception as error:
            swallow("django", error)
        finally:
            scope.exit()

    def _route(self, request: HttpRequest) -> str | None:
        match = getattr(request, "resolver_match", None)
        if match is None:
            return None
        if self._by_view_name and match.view_name:
            return str(match.view_name)
        # path("") has the route "": falsy, and not missing.
        return readable(match.route or "")

    def _labels(self, request: HttpRequest) -> LabelSet | None:
        route = self._route(request)
        return None if route is None else http_labels(request.method or "", route)

    def _final_labels(self, request: HttpRequest, response: HttpResponseBase | None) -> LabelSet:
        route = self._route(request)
        return http_labels(
            request.method or "",
            UNMATCHED if route is None else route,
            0 if response is None else response.status_code // 100,
        )


def _label_body(response: HttpResponseBase, bound: LabelSet) -> None:
    """Have each step of a streamed body labelled, whichever thread or task takes it.

    A file that the server sends by itself (``FileResponse`` with ``wsgi.file_wrapper``) stays one.
    """
    if not response.streaming or getattr(response, "file_to_stream", None) is not None:
        return
    if isinstance(response, StreamingHttpResponse):
        scope = labels(dict(bound.items()))
        content: Any = response.streaming_content
        response.streaming_content = (
            _AsyncBody(content, scope) if response.is_async else _Body(content, scope)
        )


class _Body:
    """Iterates under labels. Has no ``close``: the response closes the original."""

    __slots__ = ("_iterator", "_scope")

    def __init__(self, iterator: Iterator[bytes], scope: labels) -> None:
        self._iterator = iterator
        self._scope = scope

    def __iter__(self) -> _Body:
        return self

    def __next__(self) -> bytes:
        with self._scope:
            return next(self._iterator)


class _AsyncBody:
    """The asynchronous twin of ``_Body``."""

    __slots__ = ("_iterator", "_scope")

    def __init__(self, iterator: AsyncIterator[bytes], scope: labels) -> None:
        self._iterator = iterator
        self._scope = scope

    def __aiter__(self) -> _AsyncBody:
        return self

    async def __anext__(self) -> bytes:
        with self._scope:
            return await anext(self._iterator)
