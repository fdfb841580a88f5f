"""Merged stacks → what other tools open: pprof, folded stacks, speedscope JSON."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

from conprof_core._version import __version__
from conprof_core.agent.intake import Labels
from conprof_core.agent.pprof import Frame

__all__ = ["MEDIA_TYPES", "Stack", "folded", "pprof", "speedscope"]

# (frames root first, labels, value)
Stack = tuple[tuple[Frame, ...], Labels, int]

MEDIA_TYPES: Final = {
    "pprof": ("application/octet-stream", "pb.gz"),
    "folded": ("text/plain; charset=utf-8", "folded.txt"),
    "speedscope": ("application/json", "speedscope.json"),
}
_UNITS: Final = {"nanoseconds": "nanoseconds", "bytes": "bytes"}


def _varint(value: int) -> bytes:
    value &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value) if value else b""


def _bytes(field: int, payload: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(payload)) + payload


def pprof(stacks: Iterable[Stack], name: str, unit: str, start_ns: int, end_ns: int) -> bytes:
    """Return a gzip-compressed pprof with one sample type; ids are 1..n in table order.

    ``system_name`` stays empty, or pprof would strip names such as ``<module>``.
    """
    strings: dict[str, int] = {"": 0}
    functions: dict[tuple[str, str], int] = {}
    locations: dict[Frame, int] = {}

    def string(text: str) -> int:
        return strings.setdefault(text, len(strings))

    value_type = _number(1, string(name)) + _number(2, string(unit))
    out = [_bytes(1, value_type)]
    for frames, labels, value in stacks:
        ids = bytearray()
        for frame in reversed(frames):
            functions.setdefault(frame[:2], len(functions) + 1)
            ids += _varint(locations.setdefault(frame, len(locations) + 1))
        pairs = (
            _bytes(3, _number(1, string(key)) + _number(2, string(text))) for key, text in labels
        )
        out.append(_bytes(2, _bytes(1, bytes(ids)) + _bytes(2, _varint(value)) + b"".join(pairs)))
    has_all = _number(7, 1) + _number(8, 1) + _number(9, 1)
    out.append(_bytes(3, _number(1, 1) + _number(5, string("conprof")) + has_all))
    for frame, number in locations.items():
        line = _number(1, functions[frame[:2]]) + _number(2, frame[2])
        out.append(_bytes(4, _number(1, number) + _number(2, 1) + _bytes(4, line)))
    for (function, file), number in functions.items():
        body = _number(1, number) + _number(2, string(function)) + _number(4, string(file))
        out.append(_bytes(5, body))
    comment = string(f"conprof {__version__}")
    out += [
        _number(9, start_ns),
        _number(10, max(0, end_ns - start_ns)),
        _bytes(11, value_type),
        _number(12, 1),
        _number(13, comment),
        _number(14, string(name)),
    ]
    out += [_bytes(6, text.encode("utf-8", "replace")) for text in strings]
    return gzip.compress(b"".join(out), 6, mtime=0)


def folded(stacks: Iterable[Stack]) -> str:
    """Return ``root;…;leaf value`` lines, largest first; labels are merged away."""
    sums: dict[str, int] = defaultdict(int)
    for frames, _, value in stacks:
        sums[";".join(_plain(frame[0]) for frame in frames) or "[no stack]"] += value
    ordered = sorted(sums.items(), key=lambda pair: (-pair[1], pair[0]))
    return "".join(f"{stack} {value}\n" for stack, value in ordered)


def _plain(name: str) -> str:
    return name.replace(";", ":").replace("\n", " ")


def speedscope(stacks: Iterable[Stack], name: str, unit: str) -> str:
    """Return a sampled speedscope profile; labels are merged away."""
    frames: dict[Frame, int] = {}
    sums: dict[tuple[int, ...], int] = defaultdict(int)
    for stack, _, value in stacks:
        sums[tuple(frames.setdefault(frame, len(frames)) for frame in stack)] += value
    shared: list[dict[str, Any]] = []
    for function, file, line in frames:
        entry: dict[str, Any] = {"name": function}
        if file:
            entry["file"] = file
        if line:
            entry["line"] = line
        shared.append(entry)
    return json.dumps(
        {
            "$schema": "https://www.speedscope.app/file-format-schema.json",
            "exporter": f"conprof {__version__}",
            "name": name,
            "activeProfileIndex": 0,
            "shared": {"frames": shared},
            "profiles": [
                {
                    "type": "sampled",
                    "name": name,
                    "unit": _UNITS.get(unit, "none"),
                    "startValue": 0,
                    "endValue": sum(sums.values()),
                    "samples": [list(stack) for stack in sums],
                    "weights": list(sums.values()),
                }
            ],
        }
    )
