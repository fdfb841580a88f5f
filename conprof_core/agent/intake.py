"""One request body → one validated, normalised ``Upload``. Stateless, so it runs on any thread.

What leaves here is within all bounds and may be stored; what is not a profile never gets further.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from dataclasses import dataclass

from conprof_core.agent import limits, pprof
from conprof_core.agent.compression import expand
from conprof_core.agent.errors import UploadRefusedError
from conprof_core.agent.event import Event, parse_event, parse_fields
from conprof_core.agent.multipart import Part, boundary_of, split
from conprof_core.agent.names import ProfileType, label_key, profile_type
from conprof_core.agent.text import clean

__all__ = ["Labels", "Row", "Upload", "parse", "rows_of"]

Labels = tuple[tuple[str, str], ...]
# (frames root first, labels, one value for each of the profile's types)
Row = tuple[tuple[pprof.Frame, ...], Labels, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Upload:
    """One window of one process.

    Attributes:
        profiles: for each attached profile, its types and its rows.
        digest: of the content; equal for an upload that a probe sends again.
    """

    service: str
    tags: Labels
    start_ns: int
    end_ns: int
    counters: dict[str, int]
    endpoints: dict[str, int]
    profiles: tuple[tuple[tuple[ProfileType, ...], list[Row]], ...]
    digest: bytes
    size: int

    @property
    def middle_s(self) -> int:
        """Unix seconds: the moment a window counts for, so that it is in exactly one range."""
        return (self.start_ns + self.end_ns) // 2_000_000_000


def parse(content_type: str, body: bytes, now_s: float | None = None) -> Upload:
    """Return what a request holds.

    Raises:
        UploadRefusedError: it is not an upload with at least one valid profile.
    """
    parts = split(body, boundary_of(content_type))
    event: Event | None = None
    fields: list[tuple[str, str]] = []
    attached: list[Part] = []
    for part in parts:
        name = part.filename or part.name
        if part.name in ("event", "event.json") or part.filename == "event.json":
            if event is not None:
                raise UploadRefusedError("more than one event")
            event = parse_event(part.content)
        elif name.endswith(".pprof") or name == "cpu":
            attached.append(part)
        elif not part.filename and len(part.content) <= limits.MAX_PART_HEADERS:
            fields.append((part.name, part.content.decode("utf-8", "replace")))
    if event is None:
        if not fields:
            raise UploadRefusedError("no event.json among the parts")
        event = parse_fields(fields)
    if not attached:
        raise UploadRefusedError("no profile among the parts; an attachment is called <name>.pprof")
    if len(attached) > limits.MAX_PROFILES_IN_UPLOAD:
        raise UploadRefusedError("too many profiles in one upload", 413)
    budget = limits.MAX_PROFILE
    profiles = []
    first: pprof.Profile | None = None
    for part in attached:
        raw = expand(part.content, budget)
        budget -= len(raw)
        profile = pprof.decode(raw)
        first = first or profile
        profiles.append((_types(profile, part.filename or part.name), rows_of(profile)))
    assert first is not None
    start_ns, end_ns = _span(event, first, time.time() if now_s is None else now_s)
    digest = hashlib.sha256(repr((event.tags, start_ns, end_ns)).encode("utf-8", "replace"))
    for part in attached:
        digest.update(part.content)
    return Upload(
        event.service,
        event.tags,
        start_ns,
        end_ns,
        event.counters,
        event.endpoints,
        tuple(profiles),
        digest.digest()[:16],
        len(body),
    )


def _span(event: Event, profile: pprof.Profile, now_s: float) -> tuple[int, int]:
    start_ns = event.start_ns or profile.time_ns
    end_ns = event.end_ns or (start_ns + profile.duration_ns if start_ns else 0)
    if not start_ns and not end_ns:
        end_ns = int(now_s * 1e9)
        start_ns = end_ns - max(0, min(profile.duration_ns, limits.MAX_WINDOW_S * 1_000_000_000))
    start_ns, end_ns = start_ns or end_ns, max(end_ns, start_ns)
    if end_ns - start_ns > limits.MAX_WINDOW_S * 1_000_000_000:
        raise UploadRefusedError("the window is longer than a day")
    if start_ns <= 0 or end_ns > (now_s + limits.MAX_FUTURE_S) * 1e9:
        raise UploadRefusedError(
            "the window lies in the future, or before 1970: is the clock right?"
        )
    return start_ns, end_ns


def _types(profile: pprof.Profile, part: str) -> tuple[ProfileType, ...]:
    types: list[ProfileType] = []
    taken: set[str] = set()
    for original, unit in profile.sample_types:
        kind = profile_type(original, clean(unit, limits.MAX_LABEL_KEY), part)
        if kind.name in taken:
            raise UploadRefusedError(f"the sample type {kind.name} occurs twice")
        taken.add(kind.name)
        types.append(kind)
    return tuple(types)


def rows_of(profile: pprof.Profile) -> list[Row]:
    """Return the samples of a profile, equal stacks with equal labels added up.

    Raises:
        UploadRefusedError: inlined frames blow the stacks up beyond the bound.
    """
    sums: dict[tuple[tuple[int, ...], Labels], list[int]] = {}
    labels_seen: dict[Labels, Labels] = {}
    for sample in profile.samples:
        if not any(sample.values):
            continue
        labels = labels_seen.get(sample.labels)
        if labels is None:
            labels = labels_seen[sample.labels] = _labels(sample.labels)
        key = (sample.locations, labels)
        found = sums.get(key)
        if found is None:
            sums[key] = list(sample.values)
        else:
            for column, value in enumerate(sample.values):
                found[column] += value
    stacks: dict[tuple[int, ...], tuple[pprof.Frame, ...]] = {}
    merged: dict[tuple[tuple[pprof.Frame, ...], Labels], list[int]] = defaultdict(
        lambda: [0] * len(profile.sample_types)
    )
    budget = limits.MAX_FRAMES_IN_PROFILE
    for (locations, labels), values in sums.items():
        frames = stacks.get(locations)
        if frames is None:
            leaf_first = [frame for place in locations for frame in profile.locations[place]]
            budget -= len(leaf_first)
            if len(leaf_first) > limits.MAX_FRAMES_IN_STACK or budget < 0:
                raise UploadRefusedError("a stack is deeper than the bound", 413)
            frames = stacks[locations] = tuple(reversed(leaf_first))
        into = merged[frames, labels]
        for column, value in enumerate(values):
            into[column] += value
    return [(frames, labels, tuple(values)) for (frames, labels), values in merged.items()]


def _labels(labels: Labels) -> Labels:
    kept: dict[str, str] = {}
    for key, value in labels:
        own = label_key(key, value)
        if own and value:
            kept[own] = clean(value, limits.MAX_LABEL_VALUE)
    return tuple(sorted(kept.items()))
