"""A shop in Starlette: ``python -m example_apps.starlette_shop``, then http://127.0.0.1:8002/."""

from __future__ import annotations
