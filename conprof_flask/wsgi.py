"""The WSGI layer: labels a request from the call until the server closes the body."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from conprof_core import is_running, request_scope

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from flask import Request

    from conprof_core import RequestScope

__all__ = ["LabelledApp", "note_rule"]

_KEY: Final = "conprof.request"
_NOTHING: Final[dict[str, Any]] = {}

_METHODS: Final[Mapping[str, Mapping[str, str]]] = {
    method: {"http.request.method": method}
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
}
# A method is whatever the client sends: unknown ones share one label, as in OpenTelemetry.
_OTHER: Final[Mapping[str, str]] = {"http.request.method": "_OTHER"}


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
        scope = request_scope(_METHODS.get(environ["REQUEST_METHOD"], _OTHER), request.labels)
        scope.enter()
        try:
            body = self.app(environ, request.start_response)
        except BaseException:
            scope.bind(request.final_labels())
            scope.exit()
            raise
        scope.bind(request.final_labels())
        if _is_ready(body, environ):
            scope.exit()
            return body
        return _Body(body, scope)


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
    """What is known about one request.

    Flask keeps its request in the environ while it works on it, and takes it away in the end: the
    rule is read from there when the response starts.
    """

    __slots__ = ("_environ", "_start_response", "_status", "rule")

    def __init__(self, environ: WSGIEnvironment, start_response: StartResponse) -> None:
        self._environ = environ
        self._start_response = start_response
        self._status = ""
        self.rule: str | None = None

    def read_rule(self) -> str | None:
        found = getattr(self._environ.get("werkzeug.request"), "url_rule", None)
        if found is not None:
            self.rule = found.rule
        return self.rule

    def start_response(self, status: str, *rest: Any) -> Callable[[bytes], object]:
        self._status = status
        self.read_rule()
        return self._start_response(status, *rest)

    def labels(self) -> Mapping[str, str] | None:
        """The labels, or ``None`` while no route is known. Also called from another thread."""
        rule = self.read_rule()
        return None if rule is None else {"http.route": rule}

    def final_labels(self) -> Mapping[str, str]:
        """The labels once the application has returned; no cycle is left for the collector."""
        self._environ = _NOTHING
        route = "<unmatched>" if self.rule is None else self.rule
        if not self._status:
            return {"http.route": route}
        return {"http.route": route, "http.response.status_class": f"{self._status[0]}xx"}


class _Body:
    """A body whose request ends with ``close()``; the server iterates over the original."""

    __slots__ = ("_body", "_scope")

    def __init__(self, body: Iterable[bytes], scope: RequestScope) -> None:
        self._body = body
        self._scope = scope

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            self._scope.exit()
