"""``settings.CONPROF`` → options of ``conprof_core.start()``, and the start itself."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from django.conf import settings
from django.core import mail

from conprof_core import Config, ConprofError, Profiler

if TYPE_CHECKING:
    from conprof_core.pull import Pull

__all__ = ["LABEL_STYLES", "MIDDLEWARE", "label_style", "options", "pull", "start"]

MIDDLEWARE: Final = "conprof_django.middleware.ConprofMiddleware"
LABEL_STYLES: Final = ("route", "view_name")
STYLE_KEY: Final = "ROUTE_LABEL"

_log = logging.getLogger("conprof.django")


def raw() -> Any:
    """Return ``settings.CONPROF`` as it is, ``{}`` when missing."""
    return getattr(settings, "CONPROF", {})


def options() -> dict[str, Any]:
    """Return the options for ``Profiler``. The service is named after the project by default."""
    given = raw()
    if not isinstance(given, Mapping):
        return {}
    result = {str(key).lower(): value for key, value in given.items() if key != STYLE_KEY}
    if Config.from_env(**result).application_name is None:
        result["application_name"] = _project_name()
    return result


def _project_name() -> str | None:
    urlconf = getattr(settings, "ROOT_URLCONF", None)
    return urlconf.partition(".")[0] if isinstance(urlconf, str) and urlconf else None


def label_style() -> str:
    """Return what becomes ``http.route``: the URL pattern, or the view's name with namespaces."""
    given = raw()
    style = given.get(STYLE_KEY, "route") if isinstance(given, Mapping) else "route"
    return style if style in LABEL_STYLES else "route"


def start() -> None:
    """Start profiling this process; never raises, since a request is under way.

    Not under Django's test runner, which would upload what tests do: ``mail.outbox`` is there
    exactly while ``setup_test_environment()`` is in force.
    """
    if hasattr(mail, "outbox"):
        return
    try:
        Profiler(**options()).start()
    except ConprofError as error:
        _log.warning("%s", error)


def pull() -> Pull | None:
    """Return what answers ``/debug/pprof/``; ``None`` when it is off. Never raises."""
    try:
        config = Config.from_env(**options())
    except ConprofError:
        return None  # start() says what is wrong
    if not config.pull or config.disabled:
        return None
    # Imported here: few want it.
    from conprof_core.pull import Pull

    return Pull(config)
