"""The Flask extension: reads ``app.config`` and stands around ``app.wsgi_app``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from flask import got_request_exception, request

from conprof_core import Config, ConprofError, Profiler
from conprof_flask.wsgi import LabelledApp, note_rule

if TYPE_CHECKING:
    from flask import Flask

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

        def start() -> None:
            if not app.testing:
                _start(profiler)

        app.wsgi_app = LabelledApp(app.wsgi_app, start)  # type: ignore[method-assign]
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


def _on_exception(sender: Flask, **_: Any) -> None:
    note_rule(request._get_current_object())  # type: ignore[attr-defined]


def _start(profiler: Profiler) -> None:
    try:
        profiler.start()
    except ConprofError as error:
        # A request is under way: whatever is wrong, it must not notice.
        _log.warning("%s", error)
