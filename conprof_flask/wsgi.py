"""The WSGI layer: labels a request from the call until the server closes the body."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from werkzeug.wsgi import ClosingIterator

from conprof_core import UNMATCHED, RequestScope, http_labels, is_running

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from flask import Flask, Request

    from conprof_core import LabelSet
    from conprof_core.pull import PullWSGI

    Method = Callable[[Flask, WSGIEnvironment, StartResponse], Iterable[bytes]]

__all__ = ["labelled", "note_rule"]

_KEY: Final = "conprof.request"
_NOTHING: Final[dict[str, Any]] = {}


def labelled(inner: Method, start: Callable[[Flask], bool], pull: PullWSGI | None = None) -> Method:
    """Return a ``wsgi_app`` around another one, labelled while a profiler runs.

    ``start(app)`` is called until it returns true; then requests may be labelled. What ``pull``
    takes never reaches the application.
    """
    started = False

    def wsgi_app(
        self: Flask, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        nonlocal started
        if not started:
            # Noted when it is done: a request in another thread waits, or it would go unlabelled.
            started = start(self)
        if pull is not None and pull.takes(environ):
            return pull(environ, start_response)
        if not is_running():
            return inner(self, environ, start_response)
        request = environ[_KEY] = _Request(environ, start_response)
        request.enter()
        try:
            body = inner(self, environ, request.start_response)
        except BaseException:
            request.finish()
            request.exit()
            raise
        request.finish()
        if type(body) is not ClosingIterator and _is_ready(body, environ):
            request.exit()
            return body
        request.body = body
        return request

    return wsgi_app


def note_rule(request: Request) -> None:
    """Tell the layer around ``request`` which rule Flask matched, when no response will."""
    noted: _Request | None = request.environ.get(_KEY)
    if noted is not None:
        noted.read_rule()


def _is_ready(body: Iterable[bytes], environ: WSGIEnvironment) -> bool:
    """Whether iterating costs the application nothing, or the server wants its own object back."""
    if type(body) in (list, tuple):
        return True
    wrapper = environ.get("wsgi.file_wrapper")
    return (isinstance(wrapper, type) and isinstance(body, wrapper)) or hasattr(body, "read")


class _Request(RequestScope):
    """One request, and the body it ends with: the server iterates over the original, and closes us.

    It is the scope itself, since each call and each object more is paid for by every request.
    Flask keeps its request in the environ while it works on it, and takes it away in the end: the
    rule is read from there when the response starts.
    """

    __slots__ = ("_environ", "_method", "_rule", "_start_response", "_status", "body")
    body: Iterable[bytes]  # set when the application has returned it

    def __init__(self, environ: WSGIEnvironment, start_response: StartResponse) -> None:
        self._method = method = environ["REQUEST_METHOD"]
        super().__init__(http_labels(method), self._known_labels)
        self._environ = environ
        self._start_response = start_response
        self._status = ""
        self._rule: str | None = None

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        self._status = status[:1]
        request = self._environ.get("werkzeug.request")
        if request is not None and request.url_rule is not None:
            self._rule = request.url_rule.rule
        if exc_info is None:
            return self._start_response(status, headers)
        return self._start_response(status, headers, exc_info)

    def read_rule(self) -> None:
        request = self._environ.get("werkzeug.request")
        if request is not None and request.url_rule is not None:
            self._rule = request.url_rule.rule

    def _known_labels(self) -> LabelSet | None:
        """The labels, or ``None`` while no route is known. Also called from another thread."""
        self.read_rule()
        return None if self._rule is None else http_labels(self._method, self._rule)

    def finish(self) -> None:
        """Bind the labels once the application has returned; leaves nothing for the collector."""
        self._environ = _NOTHING
        route = UNMATCHED if self._rule is None else self._rule
        self.bind(http_labels(self._method, route, self._status))

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.body)

    def close(self) -> None:
        try:
            close = getattr(self.body, "close", None)
            if close is not None:
                close()
        finally:
            self.exit()
