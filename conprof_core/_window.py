"""One collection window on its way from an engine to the exporters: sequence, span, encoding."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence

from conprof_core._engine import EngineWindow, Row
from conprof_core._pprof import encode_profile
from conprof_core._process import Process
from conprof_core._text import valid_text
from conprof_core._version import __version__
from conprof_core.exporters import EncodedProfile, EncodedWindow
from conprof_core.exporters.naming import COLUMNS, Naming, OTLPResource, Shape

__all__ = ["Window", "compressed", "describe", "mapping_file"]

_TASK_COLUMNS = frozenset(COLUMNS["tasks"])
# As Go's runtime/pprof does: half the CPU of the usual level 6, for an eighth more bytes.
_GZIP_LEVEL = 1
_GZIP_WBITS = 16 + zlib.MAX_WBITS


class Window:
    """A window that was taken from an engine. Immutable, usable in any thread.

    ``tasks`` are the rows of the snapshot of threads, tasks and greenlets at its end.

    Attributes:
        sequence: number of the window in its process, from 0.
        lost_windows: windows dropped from full queues since the window before, for the upload.
        requests: route → requests that ended in the window.
        samples, cpu_ns: what the window holds in all.
    """

    def __init__(
        self,
        taken: EngineWindow,
        process: Process,
        *,
        engine: str,
        sequence: int,
        lost_windows: int,
        requests: Mapping[str, int],
        tasks: Sequence[Row] = (),
    ) -> None:
        self._taken = taken
        self._process = process
        self._engine = engine
        self._tasks = tuple(tasks)
        self.sequence = sequence
        self.lost_windows = lost_windows
        self.requests = requests
        self.samples = taken.samples
        self.cpu_ns = taken.cpu_ns

    def rows(self) -> list[Row]:
        """Return the aggregated rows, for doubles and tests."""
        return [*self._taken.rows(), *self._tasks]

    def counters(self) -> dict[str, int]:
        """Return what was lost, carried or truncated, by reason; zeros are left out."""
        counters = {reason: count for reason, count in self._taken.counters.items() if count}
        if self.lost_windows:
            counters["windows_dropped"] = self.lost_windows
        return counters

    def with_lost(self, lost_windows: int) -> Window:
        """Return the same window, telling of so many windows lost before it."""
        if lost_windows == self.lost_windows:
            return self
        other = object.__new__(Window)
        other.__dict__.update(self.__dict__)
        other.lost_windows = lost_windows
        return other

    def encode(self, naming: Naming) -> EncodedWindow:
        """Return the window with the names of one family of destinations."""
        counters = self.counters()
        tags = self._tags(counters)
        if naming.otlp is None:
            profiles = tuple(self._pprofs(naming, counters))
        else:
            profiles = tuple(self._otlp(naming, naming.otlp, tags, counters))
        return EncodedWindow(
            profiles=profiles,
            start_ns=self._taken.start_ns,
            end_ns=self._taken.end_ns,
            sequence=self.sequence,
            service=self._process.service,
            tags=tags,
            counters=counters,
            process_id=self._process.pid,
            samples=self._taken.samples,
            requests=self.requests,
        )

    def _pprofs(self, naming: Naming, counters: Mapping[str, int]) -> Iterator[EncodedProfile]:
        comments = describe(self._engine, counters)
        for shape in naming.shapes:
            bounded, first = naming, 0
            while first == 0 or bounded.max_samples:
                pprof = self._encode(shape, bounded, mapping_file(), comments, first)
                if pprof is None:
                    break
                size = bounded.max_samples
                if 0 < naming.max_bytes < len(pprof) and size > 1:
                    bounded = bounded._replace(max_samples=size // 2)
                    continue
                yield EncodedProfile(shape.name, compressed(pprof))
                first += size or 1

    def _otlp(
        self,
        naming: Naming,
        names: OTLPResource,
        tags: Mapping[str, str],
        counters: Mapping[str, int],
    ) -> Iterator[EncodedProfile]:
        from conprof_core._otlp import encode_request, encode_resource

        renamed = dict(names.tag_names)
        attributes = {renamed[tag]: tags[tag] for tag in renamed if renamed[tag] and tag in tags}
        attributes.update(names.attributes)
        attributes.update(
            (tag, value)
            for tag, value in tags.items()
            if tag not in renamed and not tag.startswith("conprof_lost_")
        )
        attributes["service.name"] = self._process.service
        resource = encode_resource(attributes)
        lost = [(f"conprof.lost.{reason}", count) for reason, count in counters.items()]
        request = self._taken.encode_otlp(
            naming,
            resource=resource,
            version=__version__,
            profile_id=os.urandom(16),
            attributes=lost,
        )
        if request is not None:
            yield EncodedProfile("otlp", compressed(request))
        # A request has one dictionary, and the engine's is written without the GIL: tasks, which
        # are few, have a request of their own.
        request = encode_request(
            self._tasks,
            naming,
            start_ns=self._taken.start_ns,
            end_ns=self._taken.end_ns,
            resource=resource,
            version=__version__,
            profile_id=os.urandom(16),
            attributes=lost,
        )
        if request is not None:
            yield EncodedProfile("otlp", compressed(request))

    def _encode(
        self, shape: Shape, naming: Naming, file: str, comments: tuple[str, ...], first: int
    ) -> bytes | None:
        if not _is_of_tasks(shape):
            return self._taken.encode_pprof(
                shape, naming, mapping_file=file, comments=comments, first_sample=first
            )
        return encode_profile(
            self._tasks,
            shape,
            naming,
            start_ns=self._taken.start_ns,
            end_ns=self._taken.end_ns,
            mapping_file=file,
            comments=comments,
            first_sample=first,
        )

    def _tags(self, counters: Mapping[str, int]) -> dict[str, str]:
        tags = self._process.tags(self._engine)
        tags["profile_seq"] = str(self.sequence)
        for reason, count in counters.items():
            tags[f"conprof_lost_{reason}"] = str(count)
        return tags


def _is_of_tasks(shape: Shape) -> bool:
    """Whether a profile is made of the snapshot and not of the engine's window."""
    return all(column in _TASK_COLUMNS for _, _, column in shape.sample_types)


def mapping_file() -> str:
    """Return what a profile says of the program it is of: the name of the interpreter."""
    return valid_text(os.path.basename(sys.executable or "")) or "python"


def describe(engine: str, counters: Mapping[str, int]) -> tuple[str, ...]:
    """Return the comments of a profile: who made it, and what is not in it."""
    lost = (f"{reason}: {count}" for reason, count in sorted(counters.items()))
    return (f"conprof {__version__}, {engine} engine", *lost)


def compressed(data: bytes) -> bytes:
    """Return a profile as it travels."""
    # zlib and not the gzip module: no import, and no time stamp, so equal profiles are equal bytes.
    compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WBITS)
    return compressor.compress(data) + compressor.flush()
