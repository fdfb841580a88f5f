"""The WSGI layer: labels a request from the call until the server closes the body."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from werkzeug.wsgi import ClosingIterator

from conprof_core import UNMATCHED, RequestScope, http_labels, is_running, swallow

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from flask import Flask, Request

    from conprof_core import LabelSet
    from conprof_core.pull import PullWSGI

    Method = Callable[[Flask, WSGIEnvironment, StartResponse], Iterable[bytes]]

__all__ = ["Served", "labelled", "note_rule"]

_KEY: Final = "conprof.request"
_NOTHING: Final[dict[str, Any]] = {}


class Served:
    """What the layer keeps of one application, as its attribute ``_conprof``.

    Attributes:
        start: called with the application, at each request until it returns true: then they may
            be labelled.
        pull: what it takes never reaches the application.
        is_started: whether ``start`` has returned true.
    """

    __slots__ = ("is_started", "pull", "start")

    def __init__(self, start: Callable[[Flask], bool], pull: PullWSGI | None) -> None:
        self.start = start
        self.pull = pull
        self.is_started = False


def labelled(inner: Method) -> Method:
    """Return a ``wsgi_app`` around another one, labelled while a profiler runs.

    Left alone are an application whose ``_conprof`` is ``None``, and a request that the layer of a
    derived class labels already.
    """

    def wsgi_app(
        self: Flask, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        served: Served | None = self._conprof  # type: ignore[attr-defined]
        if served is None or (_KEY in environ and environ[_KEY].served is served):
            return inner(self, environ, start_response)
        request: _Request | None = None
        try:
            if not served.is_started:
                # Noted when it is done: a request in another thread waits, or it would go
                # unlabelled.
                served.is_started = served.start(self)
            pull = served.pull
            if pull is not None and not pull.takes(environ):
                pull = None
            if pull is None and is_running():
                request = _enter(served, environ, start_response)
        except Exception as error:
            swallow("flask", error)
            pull = None
        if pull is not None:
            return pull(environ, start_response)
        if request is None:
            return inner(self, environ, start_response)
        try:
            body = inner(self, environ, request.start_response)
        except BaseException:
            request.end()
            raise
        return request.body_or_itself(body, environ)

    return wsgi_app


def _enter(served: Served, environ: WSGIEnvironment, start: StartResponse) -> _Request:
    method = environ["REQUEST_METHOD"]
    request = _Request(http_labels(method), True)
    request.environ, request.method = environ, method
    request.served, request.start = served, start
    environ[_KEY] = request
    request.enter()
    return request


def note_rule(request: Request) -> None:
    """Tell the layer around ``request`` which rule Flask matched, when no response will.

    Never raises.
    """
    noted: _Request | None = request.environ.get(_KEY)
    if noted is not None:
        noted.bind_late()


def _is_ready(body: Iterable[bytes], environ: WSGIEnvironment) -> bool:
    """Whether iterating costs the application nothing, or the server wants its own object back."""
    if type(body) in (list, tuple):
        return True
    wrapper = environ.get("wsgi.file_wrapper")
    return (isinstance(wrapper, type) and isinstance(body, wrapper)) or hasattr(body, "read")


class _Request(RequestScope):
    """One request, and the body it ends with: the server iterates over the original, and closes us.

    It is the scope itself, and its fields are set from outside, since each call and each object
    more is paid for by every request. Flask keeps its request in the environ while it works on it,
    and takes it away in the end: the rule is read from there when the response starts.
    """

    __slots__ = ("body", "environ", "method", "served", "start")
    body: Iterable[bytes]  # set when the application has returned it
    environ: WSGIEnvironment  # holds us too; emptied in the end, to leave no cycle
    method: str
    served: Served
    start: StartResponse

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        try:
            rule = getattr(self.environ.get("werkzeug.request"), "url_rule", None)
            route = UNMATCHED if rule is None else rule.rule
            self.bind(http_labels(self.method, route, status[:1]))
        except Exception as error:
            swallow("flask", error)
        if exc_info is None:
            return self.start(status, headers)
        return self.start(status, headers, exc_info)

    def late_labels(self) -> LabelSet | None:
        """The labels, or ``None`` while no route is known. Also called from another thread."""
        rule = getattr(self.environ.get("werkzeug.request"), "url_rule", None)
        return None if rule is None else http_labels(self.method, rule.rule)

    def bind_late(self) -> None:
        """Bind what is known without a response. Never raises."""
        try:
            self.bind(self.late_labels() or http_labels(self.method, UNMATCHED))
        except Exception as error:
            swallow("flask", error)

    def body_or_itself(self, body: Iterable[bytes], environ: WSGIEnvironment) -> Iterable[bytes]:
        """Return the body whose end nobody has to wait for, or what waits for it. Never raises."""
        try:
            if self.is_bound:
                self.environ = _NOTHING
            else:  # the response starts with the body's first step, if ever
                self.bind_late()
            if type(body) is not ClosingIterator and _is_ready(body, environ):
                self.end()
                return body
        except Exception as error:
            swallow("flask", error)
        self.body = body
        return self

    def end(self) -> None:
        """Bind what is not bound yet, and put back what was there. Never raises."""
        try:
            if not self.is_bound:
                self.bind_late()
            self.environ = _NOTHING
        except Exception as error:
            swallow("flask", error)
        finally:
            self.exit()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.body)

    def close(self) -> None:
        try:
            close = getattr(self.body, "close", None)
            if close is not None:
                close()
        finally:
            self.end()
