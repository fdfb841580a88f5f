"""pytest plugin for Flask's own suite: the extension in every application."""

from __future__ import annotations

from typing import Any

import flask

import conprof_core
from conprof_flask import Conprof

conprof_core.start()

_original = flask.Flask.__init__


def _init(self: flask.Flask, *args: Any, **kwargs: Any) -> None:
    _original(self, *args, **kwargs)
    Conprof(self)


flask.Flask.__init__ = _init  # type: ignore[method-assign]
