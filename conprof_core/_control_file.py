"""The control file: what all processes of a service that name the same file shall do.

JSON, ``{"enabled": true, "cpu_profile_rate": 50}``, or lines ``key = value``, with the names of the
options. It is looked at when it has changed, and only then read.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping
from typing import Any

from conprof_core import _log
from conprof_core._control import parse_changes
from conprof_core._limits import CONTROL_POLL_S, MAX_CONTROL_BYTES
from conprof_core.errors import ConfigError

__all__ = ["ControlFile", "parse_text"]

_UNSETTLED_NS = 2_000_000_000
"""A file younger than this may be written again without a new time stamp."""


def parse_text(text: str) -> dict[str, Any]:
    """Return the changes that the content of a control file asks for.

    Raises:
        ValueError: it is neither a JSON object nor lines ``key = value``, or an option cannot be
            changed, or not to this value (``ConfigError``).
    """
    if text.lstrip().startswith("{"):
        import json

        given = json.loads(text)
        return parse_changes(given)
    pairs: dict[str, object] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        key, separator, value = line.partition("=")
        if line and not separator:
            raise ValueError(f"line {number} is not of the form key = value")
        if line:
            pairs[key.strip()] = value.strip()
    return parse_changes(pairs)


class ControlFile:
    """A path that is looked at every ``CONTROL_POLL_S`` seconds. Used by one thread at a time.

    Whatever is wrong with the file is said once, and what held goes on to hold. The file may be
    replaced by renaming at any time.

    Attributes:
        path: as it was given.
        trouble: what is wrong with the file now; empty when it could be read.
        changes: what it said when it could last be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.trouble = ""
        self.changes: Mapping[str, Any] = {}
        self._seen: tuple[int, ...] | None = None
        self._next_look = 0.0  # monotonic

    def due_s(self) -> float:
        """Return the seconds until the file should be looked at again."""
        return max(0.0, self._next_look - time.monotonic())

    def look(self) -> Mapping[str, Any] | None:
        """Return what the file says if that is new; ``None`` when there is nothing to do."""
        self._next_look = time.monotonic() + CONTROL_POLL_S
        try:
            text = self._read_if_new()
            if text is None:
                return None
            changes = parse_text(text)
        except OSError as error:
            self._seen = None
            self._complain(error.strerror or str(error))
        except ConfigError as error:
            self._complain(str(error))
        except (ValueError, AttributeError, RecursionError) as error:
            self._complain(str(error)[:200] or type(error).__name__)
        else:
            if self.trouble:
                _log.log(_log.ERROR, "control", "%s is followed again", self.path)
                self.trouble = ""
            if changes != self.changes:
                self.changes = changes
                return changes
        return None

    def _read_if_new(self) -> str | None:
        # Looked at before it is opened: opening a FIFO would wait for its writer.
        self._check(os.stat(self.path))
        fd = os.open(self.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        try:
            found = os.fstat(fd)
            self._check(found)
            seen = (found.st_ino, found.st_dev, found.st_mtime_ns, found.st_size)
            if seen == self._seen:
                return None
            data = os.read(fd, MAX_CONTROL_BYTES)
        finally:
            os.close(fd)
        is_settled = time.time_ns() - found.st_mtime_ns > _UNSETTLED_NS
        self._seen = seen if is_settled else None
        if not data.strip():
            raise OSError("it is empty, perhaps because it is being written")
        return data.decode("utf-8")

    @staticmethod
    def _check(found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise OSError("it is not a regular file")
        if found.st_size >= MAX_CONTROL_BYTES:
            raise OSError(f"it is longer than {MAX_CONTROL_BYTES} bytes")

    def _complain(self, trouble: str) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            _log.log(
                _log.ERROR, "control", "%s is not followed: %s; nothing changes", self.path, trouble
            )
