"""A shop in Flask: ``python -m example_apps.flask_shop``, then http://127.0.0.1:8001/."""

from __future__ import annotations
