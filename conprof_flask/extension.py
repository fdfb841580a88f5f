"""The Flask extension: reads ``app.config`` and stands around ``app.wsgi_app``."""

from __future__ import annotations

import logging
from functools import wraps
from types import MethodType
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from flask import got_request_exception, request

from conprof_core import Config, ConprofError, Profiler, swallow
from conprof_flask.wsgi import Served, labelled, note_rule

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed.wsgi import WSGIApplication
    from flask import Flask

    from conprof_core.pull import PullWSGI
    from conprof_flask.wsgi import Method

__all__ = ["Conprof"]

_PREFIX: Final = "CONPROF_"
_log = logging.getLogger("conprof.flask")
_patched: WeakSet[type[Flask]] = WeakSet()


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
        try:
            self._profile(app)
        except ConprofError:
            raise
        except Exception as error:
            swallow("flask", error)

    def _profile(self, app: Flask) -> None:
        profiler = Profiler(**self._read(app))
        app.extensions["conprof"] = self

        # A class made for this application alone would be neater, but since CPython 3.13 an object
        # whose class has been changed is slower wherever the framework reads its attributes.
        app._conprof = Served(_starter(profiler), _pull(profiler))  # type: ignore[attr-defined]
        if "wsgi_app" in vars(app):
            # Middleware stands there: the one in use is what must be labelled.
            app.wsgi_app = MethodType(  # type: ignore[method-assign]
                labelled(_without_self(app.wsgi_app)), app
            )
        else:
            _patch(type(app))
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


def _starter(profiler: Profiler) -> Callable[[Flask], bool]:
    def start(app: Flask) -> bool:
        if app.testing:
            return False
        try:
            profiler.start()
        except ConprofError as error:
            # A request is under way: whatever is wrong, it must not notice.
            _log.warning("%s", error)
        return True

    return start


def _pull(profiler: Profiler) -> PullWSGI | None:
    if not profiler.config.pull or profiler.config.disabled:
        return None
    # Imported here: few want it.
    from conprof_core.pull import PullWSGI

    return PullWSGI(profiler.config)


def _patch(kind: type[Flask]) -> None:
    """Have ``wsgi_app`` of a class label the requests of those applications that want it.

    An attribute of the application that holds its bound method would be a cycle: without the
    adapter an application is freed when its last reference goes, and so it is with it.
    """
    owner: Any = next(one for one in kind.__mro__ if "wsgi_app" in vars(one))
    if owner not in _patched:
        owner._conprof = None
        owner.wsgi_app = wraps(owner.wsgi_app)(labelled(owner.wsgi_app))
        _patched.add(owner)


def _without_self(inner: WSGIApplication) -> Method:
    return lambda app, environ, start_response: inner(environ, start_response)


def _on_exception(sender: Flask, **_: Any) -> None:
    note_rule(request._get_current_object())  # type: ignore[attr-defined]
