"""Bytes of an attachment → bytes of a profile: gzip, zstd or raw, told apart by their magic.

Output is bounded while it is produced, so a bomb costs its bound and no more.
"""

from __future__ import annotations

import sys
import zlib
from importlib import import_module
from typing import Any, Final

from conprof_core.agent import limits
from conprof_core.agent.errors import UploadRefusedError


def _load_zstd() -> Any:
    """Return the standard library's module, the package that brings it to older Pythons, or None.

    ``conprof report`` works without the extra, for gzip and raw files.
    """
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    try:
        return import_module(name)
    except ImportError:
        return None


__all__ = ["expand"]

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_LZ4: Final = b"\x04\x22\x4d\x18"


def expand(data: bytes, limit: int = limits.MAX_PROFILE) -> bytes:
    """Return the decompressed bytes, or ``data`` itself when no known magic begins it.

    Raises:
        UploadRefusedError: truncated or damaged input, or more output than ``limit`` bytes (413).
    """
    if data.startswith(_GZIP):
        return _gunzip(data, limit)
    if data.startswith(_ZSTD):
        return _unzstd(data, limit)
    if data.startswith(_LZ4):
        raise UploadRefusedError("lz4 is not understood; send gzip, zstd or a raw profile", 415)
    return data


def _gunzip(data: bytes, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while data:  # a gzip file may be several members one after another
        member = zlib.decompressobj(wbits=31)
        try:
            chunk = member.decompress(data, limit - size + 1)
        except zlib.error as error:
            raise UploadRefusedError(f"damaged gzip: {error}") from None
        size += len(chunk)
        _check(size, limit)
        if not member.eof:
            raise UploadRefusedError("truncated gzip")
        chunks.append(chunk)
        if len(chunks) > limits.MAX_PARTS:
            raise UploadRefusedError("too many gzip members")
        data = member.unused_data
    return b"".join(chunks)


_zstd = _load_zstd()


def _unzstd(data: bytes, limit: int) -> bytes:
    if _zstd is None:
        raise UploadRefusedError("zstd needs Python 3.14 or the package backports.zstd", 415)
    frame = _zstd.ZstdDecompressor(
        options={_zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}
    )
    try:
        out: bytes = frame.decompress(data, limit + 1)
    except _zstd.ZstdError as error:
        raise UploadRefusedError(f"damaged zstd: {error}") from None
    _check(len(out), limit)
    if not frame.eof:
        raise UploadRefusedError("truncated zstd")
    return out


# What a frame may make the decoder allocate, as a power of two: 32 MiB, above any level's default
# for profiles of the size accepted here.
_WINDOW_LOG_MAX: Final = 25


def _check(size: int, limit: int) -> None:
    if size > limit:
        raise UploadRefusedError(f"more than {limit >> 20} MiB when decompressed", 413)
