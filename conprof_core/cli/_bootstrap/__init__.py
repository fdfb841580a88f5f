"""A directory for ``PYTHONPATH``; see ``sitecustomize.py`` in it. Never imported as a package."""

from __future__ import annotations
