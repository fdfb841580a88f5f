"""Writes each window into a directory: one gzip-compressed pprof, complete or not there at all.

Names are ``<service>-<pid>-<sequence>.pb.gz``, what ``go tool pprof`` and its kin open directly.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Final

from conprof_core.errors import ConfigError
from conprof_core.exporters import Destination, EncodedProfile, Outcome, Verdict, naming

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


def file_name(service: str, pid: int, sequence: int) -> str:
    """Return a name that is valid on every file system, whatever the service is called."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", service)[:_MAX_SERVICE].strip("._-")
    return f"{safe or 'python'}-{pid}-{sequence:06d}.pb.gz"


class FileExporter:
    """Delivers to a directory, which is made when it is not there."""

    def __init__(self, destination: Destination) -> None:
        self._directory = directory_of(destination.url)
        self.name = f"directory {self._directory}"
        self.naming = naming.go(destination.rate_hz)

    def export(self, profile: EncodedProfile, timeout_s: float) -> Outcome:
        """Write one file; a full or missing disk is an outage like any other."""
        del timeout_s  # the operating system offers no bound for file operations
        name = file_name(profile.service, profile.process_id, profile.sequence)
        final = os.path.join(self._directory, name)
        temporary = os.path.join(self._directory, f".{os.path.basename(final)}.{os.getpid()}.tmp")
        try:
            os.makedirs(self._directory, exist_ok=True)
            try:
                with open(temporary, "wb") as file:
                    file.write(profile.pprof_gz)
                os.replace(temporary, _unused(final))
            except BaseException:
                _remove(temporary)
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
