"""One owner for a data directory: a file lock that the kernel drops with its process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from conprof_core.agent.errors import DirectoryInUseError

__all__ = ["DirectoryLock"]


class DirectoryLock:
    """Held from construction to ``release``, or to the end of the process, however it ends."""

    def __init__(self, directory: Path) -> None:
        """Take the lock.

        Raises:
            DirectoryInUseError: another process has it.
        """
        self._path = directory / "agent.lock"
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(self._fd)
        except OSError:
            owner = os.read(self._fd, 200).decode("utf-8", "replace").strip()
            os.close(self._fd)
            raise DirectoryInUseError(str(directory), owner or "owner unknown") from None
        self.describe("starting")

    def describe(self, where: str) -> None:
        """Write who has the lock, for the message of a second agent."""
        text = f"pid {os.getpid()}, {where}\n".encode()
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, text, 0) if hasattr(os, "pwrite") else os.write(self._fd, text)

    def release(self) -> None:
        """Let another agent have the directory."""
        os.close(self._fd)


def _lock(fd: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(fd, 1 << 20, os.SEEK_SET)  # a byte nobody reads: Windows locks are mandatory
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        os.lseek(fd, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
