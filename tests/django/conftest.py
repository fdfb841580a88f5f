"""Configures Django before the tests of this directory are imported."""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("django") is None or find_spec("rest_framework") is None:
    collect_ignore_glob = ["*"]
else:
    from support.django_project import configure

    configure()
