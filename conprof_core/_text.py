"""Text from outside, made fit to travel: what no UTF-8 can hold is replaced, never refused."""

from __future__ import annotations

__all__ = ["valid_text"]


def valid_text(text: str) -> str:
    """Return the text with U+FFFD in place of lone surrogates, which UTF-8 cannot hold.

    They come from bytes that were no UTF-8: file names, environment variables and headers that
    were decoded with ``surrogateescape`` (PEP 383). Never raises.
    """
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "".join("�" if "\ud800" <= c <= "\udfff" else c for c in text)
    return text
