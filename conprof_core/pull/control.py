"""``/debug/pprof/control``: what the profiler does now; who knows the token may change it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from conprof_core import _profiler
from conprof_core._reconfigure import apply_control
from conprof_core.pull.answer import Answer, refusal, values
from conprof_core.pull.request import Request

__all__ = ["control"]

_MAX_CHANGES: Final = 20
_WANTS_TOKEN: Final = (
    "to change what the profiler does a token is wanted, of this machine too: set "
    "CONPROF_PULL_TOKEN, and send it as a bearer token"
)


def control(request: Request, *, has_token: bool) -> Answer:
    """Answer ``GET`` with what holds, and do what the query of a ``POST`` asks for.

    The query alone: frameworks differ in how a body is read, and nothing here is a secret or long.

    Args:
        request: of somebody who may read.
        has_token: whether a token was wanted, and so shown. Without one whoever runs a program on
            this machine may read; to change something is more than that.
    """
    if request.method != "POST":
        return _state(_profiler.stats().get("control", {}))
    if not has_token:
        return refusal(403, _WANTS_TOKEN)
    try:
        asked = parse_qsl(
            request.query,
            keep_blank_values=True,
            strict_parsing=bool(request.query),
            max_num_fields=_MAX_CHANGES,
        )
    except ValueError as error:
        return refusal(400, f"the query cannot be read: {error}")
    changes = dict(asked)
    if len(changes) != len(asked):
        return refusal(400, "an option is given twice")
    if not changes:
        return refusal(400, "nothing is asked for; for example: POST control?enabled=no")
    result = apply_control(changes, source="request")
    if result.is_applied:
        return _state(result.state)
    # Without a fault of who asks: no profiler runs, or it is busy.
    return refusal(400 if result.is_refused else 503, result.error)


def _state(state: Mapping[str, Any]) -> Answer:
    # With several processes behind one port it was one of them that did it.
    return values({"process_id": os.getpid(), "state": state})
