"""The WSGI layer: labels a request from the call until the server closes the body."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from conprof_core import UNMATCHED, http_labels, is_running, request_scope

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from flask import Request

    from conprof_core import LabelSet

__all__ = ["LabelledApp", "note_rule"]

_KEY: Final = "conprof.request"
_NOTHING: Final[dict[str, Any]] = {}


class LabelledApp:
    """A WSGI application around another one. Threads and greenlets may share it."""

    def __init__(self, app: WSGIApplication, start: Callable[[], None]) -> None:
        self.app = app
        self._start = start
        self._started = False

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not self._started:
            # Flagged when it is done: a request in another thread waits, or it would go unlabelled.
            self._start()
            self._started = True
        if not is_running():
            return self.app(environ, start_response)
        request = environ[_KEY] = _Request(environ, start_response)
        try:
            body = self.app(environ, request.start_response)
        except BaseException:
            request.bind()
            request.end()
            raise
        request.bind()
        if _is_ready(body, environ):
            request.end()
            return body
        request.body = body
        return request


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


class _Request:
    """One request, and the body it ends with: the server iterates over the original, and closes us.

    Flask keeps its request in the environ while it works on it, and takes it away in the end: the
    rule is read from there when the response starts.
    """

    __slots__ = ("_environ", "_method", "_scope", "_start_response", "_status", "body", "rule")

    def __init__(self, environ: WSGIEnvironment, start_response: StartResponse) -> None:
        self._environ = environ
        self._start_response = start_response
        self._status = ""
        self.body: Iterable[bytes] = ()
        self.rule: str | None = None
        self._method = method = environ["REQUEST_METHOD"]
        self._scope = request_scope(http_labels(method), self._labels).enter()

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        self._status = status[:1]
        found = getattr(self._environ.get("werkzeug.request"), "url_rule", None)
        if found is not None:
            self.rule = found.rule
        if exc_info is None:
            return self._start_response(status, headers)
        return self._start_response(status, headers, exc_info)

    def read_rule(self) -> None:
        found = getattr(self._environ.get("werkzeug.request"), "url_rule", None)
        if found is not None:
            self.rule = found.rule

    def _labels(self) -> LabelSet | None:
        """The labels, or ``None`` while no route is known. Also called from another thread."""
        self.read_rule()
        return None if self.rule is None else http_labels(self._method, self.rule)

    def bind(self) -> None:
        """Bind the labels once the application has returned; leaves nothing for the collector."""
        self._environ = _NOTHING
        route = UNMATCHED if self.rule is None else self.rule
        self._scope.bind(http_labels(self._method, route, self._status))

    def end(self) -> None:
        self._scope.exit()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.body)

    def close(self) -> None:
        try:
            close = getattr(self.body, "close", None)
            if close is not None:
                close()
        finally:
            self._scope.exit()
