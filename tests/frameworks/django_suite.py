"""Runs Django's ``runtests.py`` with conprof's middleware in every handler."""

from __future__ import annotations

import runpy
import sys
from typing import Any

import django.core.handlers.base as base
from django.conf import settings
from django.test import override_settings

import conprof_core

OURS = "conprof_django.middleware.ConprofMiddleware"

_original = base.BaseHandler.load_middleware


def _load(self: Any, is_async: bool = False) -> None:
    # As conprof_django's ready() does, also where a test overrides the setting.
    if OURS in settings.MIDDLEWARE:
        _original(self, is_async)
        return
    with override_settings(MIDDLEWARE=[OURS, *settings.MIDDLEWARE]):
        _original(self, is_async)


base.BaseHandler.load_middleware = _load  # type: ignore[method-assign]

if __name__ == "__main__":
    conprof_core.start()
    sys.argv = sys.argv[1:]
    sys.path.insert(0, ".")
    runpy.run_path(sys.argv[0], run_name="__main__")
