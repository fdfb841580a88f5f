"""The handler as a WSGI application."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from conprof_core.pull.handler import Pull
from conprof_core.pull.request import Request, below_prefix

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from conprof_core import Config

__all__ = ["PullWSGI"]


class PullWSGI:
    """Serves ``/debug/pprof/``; what ``takes()`` says no to goes to the application.

    A profile over time holds the thread that serves the request, with gevent the greenlet.

    Args:
        config: of the profiler that is read.
    """

    def __init__(self, config: Config) -> None:
        self._pull = Pull(config)

    def takes(self, environ: WSGIEnvironment) -> bool:
        """Tell whether a request is for this handler."""
        return below_prefix(environ.get("PATH_INFO", "")) is not None

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        found = self._pull.answer(Request.of_environ(environ))
        start_response(found.status_line, list(found.headers))
        return [found.body]
