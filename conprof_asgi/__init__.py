"""conprof for asgi."""

from __future__ import annotations
