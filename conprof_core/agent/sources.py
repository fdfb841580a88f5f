"""A file, a directory or an address → profiles in memory, for ``conprof report`` and ``diff``.

Needs no store and no extra: what is read is decoded with the same care as an upload.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

from conprof_core._version import __version__
from conprof_core.agent import limits, pprof
from conprof_core.agent.compression import expand
from conprof_core.agent.errors import AgentError, UploadRefusedError
from conprof_core.agent.intake import Labels, rows_of
from conprof_core.agent.names import ProfileType, profile_type, rank
from conprof_core.agent.tree import FlameTree

__all__ = ["Loaded", "load"]

_ENDINGS: Final = (".pb.gz", ".pprof", ".pb", ".pprof.gz", ".prof", ".pb.zst")
_TIMEOUT_S: Final = 30.0

Stack = tuple[tuple[pprof.Frame, ...], Labels]


@dataclass
class Loaded:
    """One or more profiles, added up.

    Attributes:
        values: own name of a type → stack and labels → value, added up.
        counted: own name of a type → how many profiles had it.
        seconds: time that the profiles cover, each counted; 0 when they do not say.
    """

    name: str
    files: int = 0
    seconds: float = 0.0
    types: dict[str, ProfileType] = field(default_factory=dict)
    values: dict[str, dict[Stack, int]] = field(default_factory=lambda: defaultdict(dict))
    counted: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, data: bytes) -> None:
        """Add the bytes of one profile.

        Raises:
            UploadRefusedError: they are none.
        """
        profile = pprof.decode(expand(data))
        kinds = [profile_type(name, unit, self.name) for name, unit in profile.sample_types]
        for kind in kinds:
            self.types.setdefault(kind.name, kind)
            self.counted[kind.name] += 1
        for frames, labels, values in rows_of(profile):
            for kind, value in zip(kinds, values, strict=True):
                if value:
                    into = self.values[kind.name]
                    into[frames, labels] = into.get((frames, labels), 0) + value
        self.files += 1
        self.seconds += max(0, profile.duration_ns) / 1e9

    def rows(self, type_name: str) -> Iterator[tuple[Stack, float]]:
        """Yield what is true of the whole: of a state, as live heap is, the mean of the profiles
        that tell it, where anything else is their sum."""
        kind = self.types.get(type_name)
        parts = self.counted[type_name] if kind is not None and kind.instant else 1
        for stack, value in self.values.get(type_name, {}).items():
            yield stack, value / parts if parts > 1 else value

    def choose(self, wanted: str | None) -> ProfileType:
        """Return the type to show: the one wanted, or the first that has values.

        Raises:
            AgentError: there is no such type.
        """
        if wanted is not None:
            # By our own name, or as it is called in the file: inuse_space is heap_space here.
            for kind in self.types.values():
                if wanted == kind.original:
                    return kind
            if wanted not in self.types:
                known = ", ".join(sorted(self.types))
                raise AgentError(f"{self.name} has no type {wanted}; it has {known}")
            return self.types[wanted]
        filled = [name for name in self.types if self.values.get(name)] or list(self.types)
        return self.types[min(filled, key=rank)]

    def total(self, type_name: str) -> float:
        return sum(value for _, value in self.rows(type_name))

    def by_label(self, type_name: str, key: str) -> dict[str, float]:
        """Return value by the value of a label; the empty one for samples without it."""
        sums: dict[str, float] = defaultdict(int)
        for (_, labels), value in self.rows(type_name):
            sums[dict(labels).get(key, "")] += value
        return sums

    def add_to(self, tree: FlameTree, type_name: str, column: int = 0) -> None:
        """Add the stacks of one type to a tree."""
        for (frames, _), value in self.rows(type_name):
            tree.add_stack(frames, value, column)


def load(source: str, wanted: str | None = None) -> Loaded:
    """Return the profiles at a file, in a directory, or at an http(s) address.

    The address of an agent, without a path, means the last hour of everything it has, of the type
    that is wanted.

    Raises:
        AgentError: it cannot be read, or is not a profile.
    """
    loaded = Loaded(source)
    if source.startswith(("http://", "https://")):
        loaded.add(_fetch(source, wanted))
        return loaded
    path = Path(source)
    if path.is_dir():
        files = sorted(each for each in path.iterdir() if each.name.endswith(_ENDINGS))
        if not files:
            raise AgentError(f"{source} holds no profile ({', '.join(_ENDINGS)})")
    else:
        files = [path]
    for file in files:
        try:
            if file.stat().st_size > limits.MAX_PROFILE:
                raise AgentError(f"{file} is larger than {limits.MAX_PROFILE >> 20} MiB")
            loaded.add(file.read_bytes())
        except OSError as error:
            raise AgentError(f"{file}: {error.strerror or error}") from None
        except UploadRefusedError as error:
            raise AgentError(f"{file}: {error}") from None
    return loaded


def _fetch(url: str, wanted: str | None) -> bytes:
    if urlsplit(url).path in ("", "/"):
        url = f"{url.rstrip('/')}/api/v1/profile" + (f"?type={quote(wanted)}" if wanted else "")
    request = urllib.request.Request(url, headers={"User-Agent": f"conprof/{__version__}"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            data = answer.read(limits.MAX_PROFILE + 1)
    except urllib.error.HTTPError as error:
        with error:
            detail = error.read(300).decode("utf-8", "replace").strip()
        raise AgentError(f"{url}: HTTP {error.code} {detail}") from None
    except (OSError, ValueError) as error:
        raise AgentError(f"{url}: {getattr(error, 'reason', error)}") from None
    if len(data) > limits.MAX_PROFILE:
        raise AgentError(f"{url}: larger than {limits.MAX_PROFILE >> 20} MiB")
    return bytes(data)
