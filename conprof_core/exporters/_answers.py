"""What an answer over HTTP, or none, means for a window; the same for every destination."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from conprof_core.exporters import Outcome, Verdict

if TYPE_CHECKING:
    from conprof_core.exporters._transport import Answer

__all__ = ["cause", "certificates", "judge"]

_GATEWAY_STATUS: Final = frozenset({502, 503, 504})


def judge(answer: Answer, credentials: str) -> Outcome:
    """Return what becomes of a window.

    Args:
        credentials: what to say when the server wants others than it got.
    """
    status = answer.status
    if 200 <= status < 300:
        return Outcome(Verdict.DELIVERED)
    detail = f"HTTP {status} {answer.reason}".rstrip()
    if status in (401, 403):
        return Outcome(Verdict.REFUSED, f"{detail}: {credentials}")
    retry_after_s = _parse_retry_after(answer.retry_after)
    if status in (408, 429) or status in _GATEWAY_STATUS:
        return Outcome(Verdict.RETRY, detail, retry_after_s=retry_after_s)
    excerpt = " ".join(answer.body.split())[:200]
    detail = f"{detail}: {excerpt}" if excerpt else detail
    if status >= 500:
        return Outcome(Verdict.RETRY, detail, retry_after_s=retry_after_s, counts=True)
    return Outcome(Verdict.REFUSED, detail)


def certificates() -> str | bool:
    """Return what ``requests`` verifies a server by: the user's own bundle, or its default."""
    return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or True


def cause(error: BaseException) -> str:
    """Return the innermost reason in a few words: urllib3 wraps it three times."""
    seen = 0
    while seen < 8:
        seen += 1
        inner = getattr(error, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((arg for arg in error.args if isinstance(arg, BaseException)), None)
        if inner is None:
            break
        error = inner
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[:200]


def _parse_retry_after(value: str | None) -> float | None:
    """Return the seconds of a ``Retry-After``: a number, or a date."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
