"""A shop in Django: ``python -m example_apps.django_shop``, then http://127.0.0.1:8000/."""

from __future__ import annotations
