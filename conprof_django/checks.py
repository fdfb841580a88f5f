"""System checks for ``settings.CONPROF``; silent when profiling is switched off."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as CheckWarning

from conprof_core import Config, ConfigError
from conprof_django import conf

__all__ = ["check_conprof"]

_KEYS = (*(name.upper() for name in Config.names()), conf.STYLE_KEY)


def check_conprof(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Check the setting, the environment and the middleware.

    E001 not a dictionary · E002 unknown key · E003 unusable value · E004 unusable ``ROUTE_LABEL`` ·
    W001 middleware listed twice · W002 half of the credentials · W003 uWSGI without threads
    """
    given = conf.raw()
    if not isinstance(given, Mapping):
        return [
            Error(
                "CONPROF must be a dictionary.",
                hint='For example CONPROF = {"APPLICATION_NAME": "shop"}.',
                id="conprof.E001",
            )
        ]
    if _is_disabled(given):
        return []
    return [*_check_keys(given), *_check_values(given), *_check_place(), *_check_uwsgi()]


def _is_disabled(given: Mapping[str, Any]) -> bool:
    try:
        return Config.from_env(disabled=given.get("DISABLED")).disabled
    except ConfigError:
        return False


def _check_keys(given: Mapping[str, Any]) -> list[CheckMessage]:
    messages: list[CheckMessage] = []
    for key in given:
        if key in _KEYS:
            continue
        close = difflib.get_close_matches(str(key).upper(), _KEYS, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"The keys are {', '.join(_KEYS)}."
        messages.append(Error(f"CONPROF has no key {key!r}.", hint=hint, id="conprof.E002"))
    style = given.get(conf.STYLE_KEY, "route")
    if style not in conf.LABEL_STYLES:
        messages.append(
            Error(
                f"CONPROF[{conf.STYLE_KEY!r}] is {style!r}.",
                hint=f"Allowed are {' and '.join(map(repr, conf.LABEL_STYLES))}.",
                id="conprof.E004",
            )
        )
    return messages


def _check_values(given: Mapping[str, Any]) -> list[CheckMessage]:
    messages: list[CheckMessage] = []
    usable: dict[str, Any] = {}
    for key, value in given.items():
        if key not in _KEYS or key == conf.STYLE_KEY:
            continue
        try:
            Config.from_env(**{key.lower(): value})
        except ConfigError as error:
            messages.append(
                Error(
                    f"CONPROF[{key!r}] is {error.value!r}.",
                    hint=error.allowed[:1].upper() + error.allowed[1:] + ".",
                    id="conprof.E003",
                )
            )
        else:
            usable[key.lower()] = value
    config = Config.from_env(**usable)
    if (config.server_id is None) != (config.server_token is None):
        missing = "SERVER_ID" if config.server_id is None else "SERVER_TOKEN"
        messages.append(
            CheckWarning(
                "conprof has one half of its credentials and uploads without them.",
                hint=f"Set {missing} in CONPROF, or BLACKFIRE_{missing} in the environment.",
                id="conprof.W002",
            )
        )
    return messages


def _check_place() -> list[CheckMessage]:
    if list(settings.MIDDLEWARE).count(conf.MIDDLEWARE) < 2:
        return []
    return [
        CheckWarning(
            f"MIDDLEWARE lists {conf.MIDDLEWARE} more than once.",
            hint="Keep the first; or none, since the application adds it by itself.",
            id="conprof.W001",
        )
    ]


def _check_uwsgi() -> list[CheckMessage]:
    uwsgi: Any = sys.modules.get("uwsgi")
    if uwsgi is None or uwsgi.opt.get("enable-threads"):
        return []
    return [
        CheckWarning(
            "uWSGI runs without threads, so profiles cannot be sent.",
            hint="Start uWSGI with --enable-threads.",
            id="conprof.W003",
        )
    ]
