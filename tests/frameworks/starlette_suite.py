"""pytest plugin for Starlette's own suite: the middleware around every application it tests."""

from __future__ import annotations

from typing import Any

import starlette.testclient

import conprof_core
from conprof_asgi import ConprofMiddleware

conprof_core.start()

_original = starlette.testclient.TestClient.__init__


def _init(self: Any, app: Any, *args: Any, **kwargs: Any) -> None:
    _original(self, app, *args, **kwargs)
    # TestClient wraps ASGI 2 applications; what it then calls is what a server calls.
    transport = self._transport
    transport.app = ConprofMiddleware(transport.app)


starlette.testclient.TestClient.__init__ = _init  # type: ignore[method-assign]
