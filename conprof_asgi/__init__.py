"""Always-on profiling for ASGI applications: ``ConprofMiddleware``."""

from __future__ import annotations

from conprof_asgi.middleware import ConprofMiddleware

__all__ = ["ConprofMiddleware"]
