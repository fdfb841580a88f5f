"""The variables that OpenTelemetry's SDKs share, as far as they concern profiles.

``OTEL_RESOURCE_ATTRIBUTES`` and the headers are lists ``key=value,key=value`` with percent-encoded
values (opentelemetry-specification ``configuration/sdk-environment-variables.md``).
"""

from __future__ import annotations

import os

__all__ = ["parse_pairs", "resource_attributes"]


def parse_pairs(text: str) -> tuple[dict[str, str], int]:
    """Return the pairs of a list, and how many of its parts are none."""
    from urllib.parse import unquote

    pairs: dict[str, str] = {}
    unusable = 0
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        key, separator, value = part.partition("=")
        if separator and key.strip():
            pairs[unquote(key.strip())] = unquote(value.strip())
        else:
            unusable += 1
    return pairs, unusable


def resource_attributes() -> dict[str, str]:
    """Return ``OTEL_RESOURCE_ATTRIBUTES``; parts that are no pair are left out."""
    text = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return parse_pairs(text)[0] if text else {}
