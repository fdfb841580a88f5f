"""Windows of one queue on disk, while their destination is away: bounded, and safe from a crash.

A process has a directory of its own, ``<spool_dir>/<what is sent where>/<pid>-<random>/``, with one
file for each window and a ``lock`` that it holds with ``flock`` as long as it lives. A directory
whose lock can be had belongs to nobody: the process that has it sends what is in there, with the
original tags and times, and removes it. So each window is sent by one process, whoever dies.

A file is written under another name and then renamed: after a ``kill -9`` it is there or not. It
carries a checksum, so what a power failure has cut is found, and counted. Files are not synced.
"""

from __future__ import annotations

import os
import time
import zlib
from collections import deque
from typing import Any, Final, NamedTuple

from conprof_core import _log
from conprof_core.exporters import EncodedProfile, EncodedWindow

__all__ = ["MAX_SPOOLED_WINDOWS", "Spool", "Spooled", "pack", "place_of", "unpack"]

ADOPT_EVERY_S: Final = 30.0
MAX_SPOOLED_WINDOWS: Final = 16_384
"""Windows of one process on disk: their names are kept in memory."""

_MAGIC: Final = b"conprof-spool-1\n"
_SUFFIX: Final = ".window"
_TEMPORARY: Final = ".tmp"
_LOCK: Final = "lock"


class Spooled(NamedTuple):
    """One window on disk.

    Attributes:
        path: of the file.
        size: of the file, in bytes.
    """

    path: str
    size: int


class _Directory:
    """A directory whose lock this process holds."""

    def __init__(self, path: str, lock: int) -> None:
        self.path = path
        self.lock = lock


class Spool:
    """The windows of one queue on disk, oldest first. Used by one thread at a time.

    Nothing is opened before the first call. A forked child calls ``forget()`` on what it inherited
    and makes a spool of its own: a lock is shared with whoever has the same descriptor.

    Attributes:
        adopted: windows taken over from processes that ended.
        dropped: windows given up: by the bound, or because a file cannot be read.
        errors: windows that could not be written.
    """

    def __init__(self, place: str, limit_bytes: int) -> None:
        self.place = place
        self._limit_bytes = limit_bytes
        self._waiting: deque[Spooled] = deque()
        self._own: _Directory | None = None
        self._adopted: list[_Directory] = []
        self._number = 0
        self._look_at = 0.0
        self._in_trouble = False
        self.bytes = 0
        self.adopted = 0
        self.dropped = 0
        self.errors = 0

    def __len__(self) -> int:
        return len(self._waiting)

    # Windows -------------------------------------------------------------------------------------

    def put(self, window: EncodedWindow) -> bool:
        """Write a window behind all others; ``False`` when the disk does not take it.

        The oldest give way to the bound, and are counted.
        """
        data = pack(window)
        if len(data) > self._limit_bytes:
            return self._failed(f"a window of {len(data)} bytes is more than spool_bytes")
        while self._waiting and (
            self.bytes + len(data) > self._limit_bytes or len(self._waiting) >= MAX_SPOOLED_WINDOWS
        ):
            self.remove()
            self.dropped += 1
        try:
            path = self._write(data)
        except OSError as error:
            return self._failed(error.strerror or str(error))
        self._in_trouble = False
        self._waiting.append(Spooled(path, len(data)))
        self.bytes += len(data)
        return True

    def _write(self, data: bytes) -> str:
        self._number += 1
        name = f"{self._number:012d}{_SUFFIX}"
        if self._own is not None:
            try:
                return _write(os.path.join(self._own.path, name), data)
            except FileNotFoundError:  # somebody cleaned up; what was in there is found missing
                os.close(self._own.lock)
        self._own = None
        self._own = self._make()
        return _write(os.path.join(self._own.path, name), data)

    def _failed(self, why: str) -> bool:
        self.errors += 1
        if not self._in_trouble:
            self._in_trouble = True
            _log.log(
                _log.ERROR,
                "export",
                "the spool %s takes no window: %s; windows are kept in memory",
                self.place,
                why,
            )
        return False

    def oldest(self) -> EncodedWindow | None:
        """Return the oldest window, which stays; what cannot be read is given up and counted."""
        while self._waiting:
            try:
                with open(self._waiting[0].path, "rb") as file:
                    return unpack(file.read())
            except (OSError, ValueError, KeyError, TypeError) as error:
                path = self._waiting[0].path
                _log.log(_log.ERROR, "export", "%s is given up: %s", path, error)
                self.remove()
                self.dropped += 1
        return None

    def remove(self) -> None:
        """Forget the oldest window: it was delivered, or is given up."""
        gone = self._waiting.popleft()
        self.bytes -= gone.size
        _unlink(gone.path)
        if not self._waiting:
            self._release_adopted()

    # Directories ---------------------------------------------------------------------------------

    def _make(self) -> _Directory:
        """Return a new directory with its lock.

        Raises:
            OSError: the disk does not have it.
        """
        os.makedirs(self.place, mode=0o700, exist_ok=True)
        for _ in range(5):
            path = os.path.join(self.place, f"{os.getpid()}-{os.urandom(6).hex()}")
            os.mkdir(path, 0o700)
            try:
                lock = os.open(os.path.join(path, _LOCK), os.O_RDWR | os.O_CREAT, 0o600)
            except FileNotFoundError:
                continue  # it looked abandoned to another process
            except OSError:
                _rmdir(path)
                raise
            if _locked(path, lock):
                return _Directory(path, lock)
        raise OSError(f"no directory of its own can be had in {self.place}")

    def adopt(self) -> None:
        """Take over what ended processes left behind; looks at most every ``ADOPT_EVERY_S``."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + ADOPT_EVERY_S
        try:
            names = sorted(os.listdir(self.place))
        except OSError:
            return  # nobody has spooled anything
        ours = {os.path.basename(each.path) for each in self._adopted}
        if self._own is not None:
            ours.add(os.path.basename(self._own.path))
        for name in names:
            if name not in ours:
                self._adopt(os.path.join(self.place, name))

    def _adopt(self, path: str) -> None:
        try:
            lock = os.open(os.path.join(path, _LOCK), os.O_RDWR)
        except OSError:
            _rmdir(path)  # ended between mkdir and open, or while it was removed
            return
        if not _locked(path, lock):
            return
        found = []
        try:
            for name in os.listdir(path):
                file = os.path.join(path, name)
                if name.endswith(_SUFFIX):
                    found.append(Spooled(file, os.stat(file).st_size))
                elif name.endswith(_TEMPORARY):
                    _unlink(file)
        except OSError as error:
            _log.log(_log.ERROR, "export", "%s cannot be read: %s", path, error.strerror)
        self._adopted.append(_Directory(path, lock))
        self._waiting.extendleft(sorted(found, reverse=True))
        self.adopted += len(found)
        self.bytes += sum(each.size for each in found)
        if not found:
            self._release_adopted()
            return
        while self.bytes > self._limit_bytes or len(self._waiting) > MAX_SPOOLED_WINDOWS:
            self.remove()
            self.dropped += 1

    def _release_adopted(self) -> None:
        """Give up the directories that are empty now. The own one stays for the next outage."""
        kept = []
        for each in self._adopted:
            if any(os.path.dirname(waiting.path) == each.path for waiting in self._waiting):
                kept.append(each)
                continue
            _remove(each)
        self._adopted = kept

    def close(self) -> None:
        """Let go of everything; what is left is for the next process to adopt."""
        held = [*self._adopted, *([self._own] if self._own is not None else [])]
        used = {os.path.dirname(waiting.path) for waiting in self._waiting}
        for each in held:
            if each.path in used:
                os.close(each.lock)
            else:
                _remove(each)
        self._forgotten()

    def forget(self) -> None:
        """In a forked child: the descriptors are the parent's, and so are the files."""
        for each in [*self._adopted, *([self._own] if self._own is not None else [])]:
            os.close(each.lock)
        self._forgotten()

    def _forgotten(self) -> None:
        self._own = None
        self._adopted = []
        self._waiting.clear()
        self.bytes = 0

    def stats(self) -> dict[str, int]:
        """Return counters for ``conprof.stats()``."""
        return {
            "spooled": len(self._waiting),
            "spooled_bytes": self.bytes,
            "adopted": self.adopted,
            "spool_errors": self.errors,
        }


def place_of(spool_dir: str, service: str, destination: str) -> str:
    """Return the directory of one service and one destination: nothing is sent elsewhere."""
    import re
    from hashlib import sha256

    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", service)[:80].strip("._-") or "python"
    digest = sha256(f"{service}\0{destination}".encode("utf-8", "replace")).hexdigest()
    return os.path.join(os.path.abspath(spool_dir), f"{safe}-{digest[:16]}")


def pack(window: EncodedWindow) -> bytes:
    """Return a window as bytes: magic, checksum, length of the head, head as JSON, profiles."""
    import json

    head: dict[str, Any] = window._asdict()
    head["profiles"] = [(profile.name, len(profile.pprof_gz)) for profile in window.profiles]
    for key in ("tags", "counters", "requests"):
        head[key] = dict(head[key])
    text = json.dumps(head).encode("ascii")
    body = b"".join(
        (len(text).to_bytes(4, "big"), text, *(profile.pprof_gz for profile in window.profiles))
    )
    return b"".join((_MAGIC, zlib.crc32(body).to_bytes(4, "big"), body))


def unpack(data: bytes) -> EncodedWindow:
    """Return the window that ``pack`` made these bytes of.

    Raises:
        ValueError, KeyError, TypeError: they are cut, damaged or of another version.
    """
    import json

    begin = len(_MAGIC) + 4
    if data[: len(_MAGIC)] != _MAGIC:
        raise ValueError("it is no spooled window of this version")
    if zlib.crc32(data[begin:]).to_bytes(4, "big") != data[len(_MAGIC) : begin]:
        raise ValueError("it is damaged")
    at = begin + 4 + int.from_bytes(data[begin : begin + 4], "big")
    head = json.loads(data[begin + 4 : at])
    profiles = []
    for name, size in head["profiles"]:
        profiles.append(EncodedProfile(name, data[at : at + size]))
        at += size
    return EncodedWindow(**{**head, "profiles": tuple(profiles)})


def _locked(path: str, lock: int) -> bool:
    """Lock a directory; closes ``lock`` and says no when another process has or had it."""
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Removed by the process that had it before us: the lock is on a file that has no name.
        if os.fstat(lock).st_ino == os.stat(os.path.join(path, _LOCK)).st_ino:
            return True
    except OSError:
        pass
    os.close(lock)
    return False


def _write(path: str, data: bytes) -> str:
    temporary = path + _TEMPORARY
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError:
        _unlink(temporary)
        raise
    return path


def _remove(directory: _Directory) -> None:
    """Remove an empty directory, its lock last, so that nobody takes it for abandoned."""
    _unlink(os.path.join(directory.path, _LOCK))
    _rmdir(directory.path)
    os.close(directory.lock)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _rmdir(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError:
        pass
