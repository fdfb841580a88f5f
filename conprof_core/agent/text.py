"""Names from uploads are hostile input: what may be kept of them, decided once, at intake.

Markup is not touched here: whoever shows a name escapes it (the viewer uses ``textContent``).
Control and direction characters are replaced, because a terminal or a table row obeys them.
"""

from __future__ import annotations

from typing import Final

__all__ = ["clean"]

_REPLACED: Final = dict.fromkeys(
    (
        *range(0x20),
        *range(0x7F, 0xA0),
        0x200E,
        0x200F,
        *range(0x2028, 0x202F),
        *range(0x2066, 0x206A),
        0xFEFF,
        *range(0xD800, 0xE000),
    ),
    "\ufffd",
)


def clean(text: str, limit: int) -> str:
    """Return text without control characters, at most ``limit`` characters long."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return text if text.isascii() and text.isprintable() else text.translate(_REPLACED)
