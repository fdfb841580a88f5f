"""What single servers need so that the last window is sent; ``_state`` installs it.

uvicorn ends a graceful stop by raising, once more and with the default action, the signal that
asked for it: the process dies without running ``atexit``. The one moment before that is the end of
``Server.shutdown``, when every request and the application's own shutdown are done.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from conprof_core import _log
from conprof_core._limits import EXIT_FLUSH_S

__all__ = ["install", "uninstall"]

_undo: list[Callable[[], None]] = []


def install(flush: Callable[[float], object]) -> None:
    """Have ``flush(seconds)`` called when a server is about to end. Idempotent; never raises."""
    if _undo or "uvicorn.server" not in sys.modules:
        return
    with _log.guard("servers"):
        server: Any = sys.modules["uvicorn.server"].Server
        original = server.shutdown

        @functools.wraps(original)
        async def shutdown(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return await original(self, *args, **kwargs)
            finally:
                # Blocks the event loop, which has nothing left to do.
                with _log.guard("servers"):
                    flush(EXIT_FLUSH_S)

        server.shutdown = shutdown

        def undo() -> None:
            if server.__dict__.get("shutdown") is shutdown:
                server.shutdown = original

        _undo.append(undo)


def uninstall() -> None:
    """Put everything back."""
    while _undo:
        with _log.guard("servers"):
            _undo.pop()()
