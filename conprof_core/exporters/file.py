"""Writes each window into a directory: one gzip-compressed pprof for each profile type.

A file is complete or not there at all. Names are ``<service>-<pid>-<sequence>.pb.gz`` for CPU and
``<service>-<pid>-<sequence>.heap.pb.gz`` and so on for the other types, what ``go tool pprof`` and
its kin open directly.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Final

from conprof_core.errors import ConfigError
from conprof_core.exporters import Destination, EncodedWindow, Outcome, Verdict, naming
from conprof_core.exporters.naming import Measured

__all__ = ["FileExporter", "directory_of"]

_MAX_SERVICE: Final = 80


def directory_of(url: str, option: str = "export_to") -> str:
    """Return the directory that ``file:///dir`` or ``file:dir`` names.

    Raises:
        ConfigError: the URL names a host or no directory.
    """
    from urllib.parse import unquote

    rest = url[len("file:") :]
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        rest = slash + path
        if host not in ("", "localhost"):
            raise ConfigError(option, url, "a directory on this host is written file:///directory")
    path = unquote(rest)
    if sys.platform == "win32":
        path = re.sub(r"^/(?=[A-Za-z]:)", "", path)
    if not path or "\0" in path:
        raise ConfigError(option, url, "a directory is written file:///directory")
    return os.path.abspath(path)


def file_name(service: str, pid: int, sequence: int, kind: str = "cpu") -> str:
    """Return a name that is valid on every file system, whatever the service is called."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", service)[:_MAX_SERVICE].strip("._-")
    suffix = "" if kind == "cpu" else f".{kind}"
    return f"{safe or 'python'}-{pid}-{sequence:06d}{suffix}.pb.gz"


class FileExporter:
    """Delivers to a directory, which is made when it is not there."""

    def __init__(self, destination: Destination) -> None:
        self._directory = directory_of(destination.url)
        self.is_local = True  # answers at once, or not at all
        self.name = f"directory {self._directory}"
        self.measure(destination.measured)

    def measure(self, measured: Measured) -> None:
        """Name what is measured from now on; windows that are encoded stay as they are."""
        self.naming = naming.go(measured)

    def export(self, window: EncodedWindow, timeout_s: float) -> Outcome:
        """Write the files of one window; a full or missing disk is an outage like any other."""
        del timeout_s  # the operating system offers no bound for file operations
        temporary: list[tuple[str, str]] = []
        try:
            os.makedirs(self._directory, exist_ok=True)
            try:
                # All are written before the first gets its name: after an outage nothing is there
                # twice.
                for profile in window.profiles:
                    name = file_name(
                        window.service, window.process_id, window.sequence, profile.name
                    )
                    path = os.path.join(self._directory, f".{name}.{os.getpid()}.tmp")
                    temporary.append((path, os.path.join(self._directory, name)))
                    with open(path, "wb") as file:
                        file.write(profile.pprof_gz)
                for path, final in temporary:
                    os.replace(path, _unused(final))
            except BaseException:
                for path, _ in temporary:
                    _remove(path)
                raise
        except OSError as error:
            return Outcome(Verdict.RETRY, f"{error.strerror or error}")
        return Outcome(Verdict.DELIVERED)

    def shutdown(self) -> None:
        """Nothing is held between windows."""


def _unused(path: str) -> str:
    """Return ``path``, or a variant of it when an earlier process with this pid wrote it."""
    stem, _, _ = path.rpartition(".pb.gz")
    number = 1
    while os.path.exists(path):
        number += 1
        path = f"{stem}.{number}.pb.gz"
    return path


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
