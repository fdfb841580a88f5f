"""The parameters of a request: ``seconds`` and ``debug``. Others are nobody's, and passed over.

Stricter than Go in one point: a ``seconds`` of ``profile`` that is no number is refused, where Go
takes 30.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple
from urllib.parse import parse_qs

from conprof_core._limits import MAX_READ_S
from conprof_core.pull.answer import Failed, refusal

__all__ = ["Parameters", "read"]

_DEBUG: Final = {"": 0, "0": 0, "1": 1, "2": 2}


class Parameters(NamedTuple):
    """What was asked for.

    Attributes:
        seconds: length of a read; ``None`` when it was not given.
        debug: 0 for pprof, else text.
    """

    seconds: float | None
    debug: int


def read(query: str) -> Parameters:
    """Return the parameters of a query.

    Raises:
        Failed: with the answer, when one of them cannot be used.
    """
    try:
        given = parse_qs(query, keep_blank_values=True, max_num_fields=20)
    except ValueError:
        raise Failed(refusal(400, "too many parameters")) from None
    seconds = _seconds(given["seconds"][0]) if "seconds" in given else None
    debug = _DEBUG.get(given.get("debug", [""])[0])
    if debug is None:
        raise Failed(refusal(400, 'invalid value for "debug": allowed are 0, 1 and 2'))
    return Parameters(seconds, debug)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_READ_S:
        allowed = f"allowed is more than 0 and at most {MAX_READ_S:g}"
        raise Failed(refusal(400, f'invalid value for "seconds": {allowed}'))
    return seconds
