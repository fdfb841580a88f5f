"""What was acknowledged and is not in the store yet: request bodies, appended and flushed to disk.

An upload is answered when it stands here, which takes one ``fsync`` for all that wait together. The
store takes the same uploads later, many in one transaction, and the journal starts anew. After a
crash it is read once more; what the store had already is recognised by its digest.

A record is a header (lengths, time of arrival, CRC-32 of what follows), the ``Content-Type`` and
the body. The first one that is cut off or damaged ends the file: it was never acknowledged.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Journal", "Received"]

_MAGIC: Final = b"conprof journal 1\n"
_HEADER: Final = struct.Struct(">IIdI")  # bytes of Content-Type, bytes of body, time, CRC-32


class Received(NamedTuple):
    """A request as it came in; ``arrived_s`` is Unix time."""

    content_type: str
    body: bytes
    arrived_s: float


class Journal:
    """One file. For one thread, the writer's."""

    def __init__(self, path: Path) -> None:
        """Open or create the file.

        Raises:
            OSError: it cannot be opened.
        """
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        if os.fstat(self._file).st_size < len(_MAGIC):
            self.clear()

    def replay(self) -> Iterator[Received]:
        """Yield what is in the file, oldest first, and cut off what a crash left unfinished.

        Raises:
            OSError: the file is not a journal, or not of this version.
        """
        with self._path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise OSError(errno.EINVAL, "it is not a journal of this version")
            whole = file.tell()
            while len(header := file.read(_HEADER.size)) == _HEADER.size:
                type_bytes, body_bytes, arrived_s, checksum = _HEADER.unpack(header)
                content = file.read(type_bytes + body_bytes)
                if len(content) < type_bytes + body_bytes or zlib.crc32(content) != checksum:
                    break
                whole = file.tell()
                yield Received(
                    content[:type_bytes].decode("utf-8", "replace"), content[type_bytes:], arrived_s
                )
        # What is appended behind a damaged record would not be found again.
        os.ftruncate(self._file, whole)

    def append(self, received: Sequence[Received]) -> None:
        """Write requests; they are durable when it returns.

        Raises:
            OSError: none of them is in the file.
        """
        size = os.fstat(self._file).st_size
        chunks: list[bytes] = []
        for content_type, body, arrived_s in received:
            kind = content_type.encode("utf-8", "replace")
            checksum = zlib.crc32(body, zlib.crc32(kind))
            chunks += [_HEADER.pack(len(kind), len(body), arrived_s, checksum), kind, body]
        try:
            rest = memoryview(b"".join(chunks))
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fdatasync(self._file) if hasattr(os, "fdatasync") else os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, size)
            raise

    def clear(self) -> None:
        """Start anew: everything in it is in the store."""
        os.ftruncate(self._file, 0)
        os.write(self._file, _MAGIC)

    def close(self) -> None:
        """Close the file; what is in it stays."""
        os.close(self._file)
