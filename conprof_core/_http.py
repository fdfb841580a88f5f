"""The labels of HTTP requests, for adapters: named as OpenTelemetry names its attributes."""

from __future__ import annotations

from typing import Final

from conprof_core._labels import LabelSet, label_set

__all__ = ["UNMATCHED", "http_labels"]

UNMATCHED: Final = "<unmatched>"
"""The route of what matched none: never the path, which is the client's text."""

_OTHER: Final = "_OTHER"
_METHODS: Final = frozenset(
    ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", _OTHER, "")
)
_MAX_CACHED: Final = 1_024

_sets: dict[tuple[str, str | None, int | str], LabelSet] = {}


def http_labels(method: str, route: str | None = None, status_class: int | str = 0) -> LabelSet:
    """Return ``http.request.method``, ``http.route`` and ``http.response.status_class``, prepared.

    Args:
        method: empty for what has none, as a WebSocket. A method that HTTP does not know shares the
            label ``_OTHER``: it is whatever a client sends.
        route: a template; ``None`` while it is not known.
        status_class: first digit of the status; 0 or empty while it is not known.
    """
    found = _sets.get((method, route, status_class))
    return _make(method, route, status_class) if found is None else found


def _make(method: str, route: str | None, status_class: int | str) -> LabelSet:
    if method not in _METHODS:
        return http_labels(_OTHER, route, status_class)
    given = {"http.request.method": method} if method else {}
    if route is not None:
        given["http.route"] = route
    if status_class:
        given["http.response.status_class"] = f"{status_class}xx"
    if len(_sets) >= _MAX_CACHED:
        _sets.clear()
    found = _sets[method, route, status_class] = label_set(given)
    return found
