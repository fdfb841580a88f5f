"""Bytes of an attachment → bytes of a profile: gzip, zstd or raw, told apart by their magic.

Output is bounded while it is produced, so a bomb costs its bound and no more.
"""

from __future__ import annotations

import sys
import zlib
from typing import TYPE_CHECKING, Final

from conprof_core.agent import limits
from conprof_core.agent.errors import RefusedUpload

if TYPE_CHECKING or sys.version_info < (3, 14):
    try:
        from backports import zstd
    except ImportError:  # `conprof report` works without the extra, for gzip and raw files
        zstd = None  # type: ignore[assignment, unused-ignore]
else:
    from compression import zstd

__all__ = ["expand"]

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_LZ4: Final = b"\x04\x22\x4d\x18"


def expand(data: bytes, limit: int = limits.MAX_PROFILE) -> bytes:
    """Return the decompressed bytes, or ``data`` itself when no known magic begins it.

    Raises:
        RefusedUpload: truncated or damaged input, or more output than ``limit`` bytes (413).
    """
    if data.startswith(_GZIP):
        return _gunzip(data, limit)
    if data.startswith(_ZSTD):
        return _unzstd(data, limit)
    if data.startswith(_LZ4):
        raise RefusedUpload("lz4 is not understood; send gzip, zstd or a raw profile", 415)
    return data


def _gunzip(data: bytes, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while data:  # a gzip file may be several members one after another
        member = zlib.decompressobj(wbits=31)
        try:
            chunk = member.decompress(data, limit - size + 1)
        except zlib.error as error:
            raise RefusedUpload(f"damaged gzip: {error}") from None
        size += len(chunk)
        _check(size, limit)
        if not member.eof:
            raise RefusedUpload("truncated gzip")
        chunks.append(chunk)
        if len(chunks) > limits.MAX_PARTS:
            raise RefusedUpload("too many gzip members")
        data = member.unused_data
    return b"".join(chunks)


def _unzstd(data: bytes, limit: int) -> bytes:
    if zstd is None:
        raise RefusedUpload("zstd needs Python 3.14 or the package backports.zstd", 415)
    frame = zstd.ZstdDecompressor(
        options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}
    )
    try:
        out = frame.decompress(data, limit + 1)
    except zstd.ZstdError as error:
        raise RefusedUpload(f"damaged zstd: {error}") from None
    _check(len(out), limit)
    if not frame.eof:
        raise RefusedUpload("truncated zstd")
    return out


# What a frame may make the decoder allocate, as a power of two: 32 MiB, above any level's default
# for profiles of the size accepted here.
_WINDOW_LOG_MAX: Final = 25


def _check(size: int, limit: int) -> None:
    if size > limit:
        raise RefusedUpload(f"more than {limit >> 20} MiB when decompressed", 413)
