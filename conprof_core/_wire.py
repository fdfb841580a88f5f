"""The protobuf wire format, as far as profiles need it; the messages are in ``_pprof``, ``_otlp``.

A tag is ``(field number << 3) | wire type``: 0 is varint, 1 is fixed64, 2 is length-delimited.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

__all__ = ["delimited", "fixed64", "number", "packed", "varint"]

_UINT64: Final = (1 << 64) - 1


def varint(value: int) -> bytes:
    """Return a bare varint; negative numbers are those of an int64."""
    value &= _UINT64
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(tag: bytes, value: int) -> bytes:
    """Return a varint field; proto3 leaves zeros out."""
    return tag + varint(value) if value else b""


def fixed64(tag: bytes, value: int) -> bytes:
    """Return a fixed64 field; proto3 leaves zeros out."""
    return tag + value.to_bytes(8, "little") if value else b""


def delimited(tag: bytes, payload: bytes) -> bytes:
    """Return a string, bytes or message field, also when it is empty."""
    return tag + varint(len(payload)) + payload


def packed(tag: bytes, values: Iterable[int]) -> bytes:
    """Return a packed repeated field of varints."""
    return delimited(tag, b"".join(map(varint, values)))
