"""The application: puts the middleware in place and registers the checks. Starts nothing."""

from __future__ import annotations

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import register

from conprof_django.checks import check_conprof
from conprof_django.conf import MIDDLEWARE

__all__ = ["ConprofConfig"]


class ConprofConfig(AppConfig):
    """``"conprof_django"`` in ``INSTALLED_APPS`` is all that is needed.

    The middleware is added here, in front of all others, unless ``MIDDLEWARE`` names it already:
    its place matters (what stands before it is not labelled), a line that need not be written
    cannot be forgotten, and whoever wants another place writes it. ``ready()`` runs before a
    handler reads the setting, in every server.
    """

    name = "conprof_django"
    verbose_name = "conprof"

    def ready(self) -> None:
        """Add the middleware; safe to call again."""
        register(check_conprof)
        present = list(settings.MIDDLEWARE)
        if MIDDLEWARE not in present:
            settings.MIDDLEWARE = [MIDDLEWARE, *present]
