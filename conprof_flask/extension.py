"""The Flask extension: reads ``app.config`` and stands around ``app.wsgi_app``."""

from __future__ import annotations

import logging
from functools import wraps
from types import MethodType, new_class
from typing import TYPE_CHECKING, Any, Final

from flask import got_request_exception, request

from conprof_core import Config, ConprofError, Profiler
from conprof_flask.wsgi import labelled, note_rule

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed.wsgi import WSGIApplication
    from flask import Flask

    from conprof_core.pull import PullWSGI
    from conprof_flask.wsgi import Method

__all__ = ["Conprof"]

_PREFIX: Final = "CONPROF_"
_log = logging.getLogger("conprof.flask")


class Conprof:
    """Profile a Flask application: ``Conprof(app)``, or ``init_app(app)`` in a factory.

    Options are those of ``conprof_core.start()``, as keywords here or as ``CONPROF_<OPTION>`` in
    ``app.config``; a keyword wins. Without ``application_name`` the application's own name is used.

    The profiler starts with the first request that a process serves: in every worker, and never in
    a preloading arbiter, a reloader's parent, ``flask shell`` or ``flask routes``. While
    ``app.testing`` is true it is not started. One extension may serve several applications.

    Raises:
        ConfigError: an option cannot be used.
    """

    def __init__(self, app: Flask | None = None, **options: Any) -> None:
        self._options = options
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Profile ``app``.

        Raises:
            RuntimeError: the application has the extension already.
            ConfigError: an option cannot be used.
        """
        if "conprof" in app.extensions:
            raise RuntimeError(
                "this Flask application is profiled already: use Conprof(app) or "
                "conprof.init_app(app), not both, and call it once per application"
            )
        profiler = Profiler(**self._read(app))
        app.extensions["conprof"] = self

        def start(app: Flask) -> bool:
            if not app.testing:
                _start(profiler)
            return not app.testing

        pull = _pull(profiler)
        try:
            if "wsgi_app" in vars(app):
                raise TypeError("middleware stands there: the one in use is what must be labelled")
            app.__class__ = _derived(type(app), start, pull)
        except TypeError:  # also: a class of the application's that cannot be derived from
            outer = labelled(_without_self(app.wsgi_app), start, pull)
            app.wsgi_app = MethodType(outer, app)  # type: ignore[method-assign]
        # The rule of a request that ends in an exception; the others start a response.
        got_request_exception.connect(_on_exception, app, weak=False)

    def _read(self, app: Flask) -> dict[str, Any]:
        options = {
            key.removeprefix(_PREFIX).lower(): value
            for key, value in app.config.items()
            if key.startswith(_PREFIX)
        }
        options.update(self._options)
        if Config.from_env(**options).application_name is None:
            options["application_name"] = app.name
        return options


def _start(profiler: Profiler) -> None:
    try:
        profiler.start()
    except ConprofError as error:
        # A request is under way: whatever is wrong, it must not notice.
        _log.warning("%s", error)


def _pull(profiler: Profiler) -> PullWSGI | None:
    if not profiler.config.pull or profiler.config.disabled:
        return None
    # Imported here: few want it.
    from conprof_core.pull import PullWSGI

    return PullWSGI(profiler.config)


def _derived(
    base: type[Flask], start: Callable[[Flask], bool], pull: PullWSGI | None
) -> type[Flask]:
    """Return a class for one application that differs in ``wsgi_app`` alone.

    An attribute of the application that holds its bound method would be a cycle: without the
    adapter an application is freed when its last reference goes, and so it is with it.
    """
    members = {
        "wsgi_app": wraps(base.wsgi_app)(labelled(base.wsgi_app, start, pull)),
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
    }
    return new_class(base.__name__, (base,), exec_body=lambda names: names.update(members))


def _without_self(inner: WSGIApplication) -> Method:
    return lambda app, environ, start_response: inner(environ, start_response)


def _on_exception(sender: Flask, **_: Any) -> None:
    note_rule(request._get_current_object())  # type: ignore[attr-defined]
