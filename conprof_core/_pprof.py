"""Aggregated rows → pprof bytes, in pure Python: the portable engine's encoder.

Also the reference for the C encoder: equal rows give equal profiles. Message and field numbers are
those of google/pprof ``proto/profile.proto``; eight messages, written by hand, need no protobuf.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from conprof_core._cells import OVERFLOW_ITEMS
from conprof_core._engine import Row
from conprof_core._limits import MAX_NAME
from conprof_core.exporters.naming import Naming, Shape

__all__ = ["clean_name", "encode_profile"]

# Field tags: (number << 3) | wire type; 0 is varint, 2 is length-delimited.
_PROFILE_SAMPLE_TYPE: Final = b"\x0a"  # 1
_PROFILE_SAMPLE: Final = b"\x12"  # 2
_PROFILE_MAPPING: Final = b"\x1a"  # 3
_PROFILE_LOCATION: Final = b"\x22"  # 4
_PROFILE_FUNCTION: Final = b"\x2a"  # 5
_PROFILE_STRING: Final = b"\x32"  # 6
_PROFILE_TIME_NANOS: Final = b"\x48"  # 9
_PROFILE_DURATION_NANOS: Final = b"\x50"  # 10
_PROFILE_PERIOD_TYPE: Final = b"\x5a"  # 11
_PROFILE_PERIOD: Final = b"\x60"  # 12
_PROFILE_COMMENT: Final = b"\x6a"  # 13, packed
_PROFILE_DEFAULT_TYPE: Final = b"\x70"  # 14
_TYPE_TYPE: Final = b"\x08"
_TYPE_UNIT: Final = b"\x10"
_SAMPLE_LOCATION: Final = b"\x0a"  # 1, packed
_SAMPLE_VALUE: Final = b"\x12"  # 2, packed
_SAMPLE_LABEL: Final = b"\x1a"  # 3
_LABEL_KEY: Final = b"\x08"
_LABEL_STRING: Final = b"\x10"
_MAPPING_ID: Final = b"\x08"
_MAPPING_FILENAME: Final = b"\x28"  # 5
_MAPPING_HAS_FUNCTIONS: Final = b"\x38\x01"  # 7
_MAPPING_HAS_FILENAMES: Final = b"\x40\x01"  # 8
_MAPPING_HAS_LINES: Final = b"\x48\x01"  # 9
_LOCATION_ID: Final = b"\x08"
_LOCATION_MAPPING: Final = b"\x10\x01"  # 2: always mapping 1
_LOCATION_LINE: Final = b"\x22"  # 4
_LINE_FUNCTION: Final = b"\x08"
_LINE_LINE: Final = b"\x10"
_FUNCTION_ID: Final = b"\x08"
_FUNCTION_NAME: Final = b"\x10"  # 2; 3, system_name, stays 0 or pprof strips <module>
_FUNCTION_FILENAME: Final = b"\x20"  # 4
_FUNCTION_START_LINE: Final = b"\x28"  # 5

_UINT64: Final = (1 << 64) - 1

_Stack = tuple[tuple[str, str, int, int], ...]
_Labels = tuple[tuple[str, str], ...]


def _varint(value: int) -> bytes:
    value &= _UINT64
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _delimited(tag: bytes, payload: bytes) -> bytes:
    return tag + _varint(len(payload)) + payload


def _packed(tag: bytes, values: Iterable[int]) -> bytes:
    return _delimited(tag, b"".join(map(_varint, values)))


def clean_name(text: str) -> str:
    """Return a name that is valid UTF-8, holds no control character and is of bounded length."""
    if len(text) > MAX_NAME:
        text = text[: MAX_NAME - 1] + "…"
    if text.isprintable():
        return text
    # Surrogates, as in file names that are not UTF-8, are not printable either.
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


class _Builder:
    """The tables of one profile; ids start at 1 and follow the order of the tables."""

    def __init__(self) -> None:
        self.strings: dict[str, int] = {"": 0}
        self._functions: dict[tuple[str, str, int], int] = {}
        self._locations: dict[tuple[int, int], int] = {}
        self._frames: dict[tuple[str, str, int, int], int] = {}

    def string(self, text: str) -> int:
        return self.strings.setdefault(text, len(self.strings))

    def location(self, frame: tuple[str, str, int, int]) -> int:
        found = self._frames.get(frame)
        if found is None:
            name, filename, line, start_line = frame
            function = (clean_name(name) or "<unknown>", clean_name(filename), max(0, start_line))
            function_id = self._functions.setdefault(function, len(self._functions) + 1)
            location = (function_id, max(0, line))
            found = self._locations.setdefault(location, len(self._locations) + 1)
            self._frames[frame] = found
        return found

    def functions(self) -> Iterable[bytes]:
        for (name, filename, start_line), number in self._functions.items():
            yield _delimited(
                _PROFILE_FUNCTION,
                _FUNCTION_ID
                + _varint(number)
                + _FUNCTION_NAME
                + _varint(self.string(name))
                + _FUNCTION_FILENAME
                + _varint(self.string(filename))
                + _FUNCTION_START_LINE
                + _varint(start_line),
            )

    def locations(self) -> Iterable[bytes]:
        for (function, line), number in self._locations.items():
            payload = _LINE_FUNCTION + _varint(function) + _LINE_LINE + _varint(line)
            yield _delimited(
                _PROFILE_LOCATION,
                _LOCATION_ID
                + _varint(number)
                + _LOCATION_MAPPING
                + _delimited(_LOCATION_LINE, payload),
            )


def _labels_of(row: Row, naming: Naming) -> tuple[tuple[str, str], ...]:
    # An empty value cannot be told from no label: both are string 0.
    renamed = dict(naming.label_names)
    labels = {renamed.get(key, key): value for key, value in row.labels if value}
    labels.pop("", None)  # a key that has no name there is left out
    if naming.thread_label is not None and row.thread_name:
        labels.setdefault(naming.thread_label, row.thread_name)
    return tuple(sorted((clean_name(key), clean_name(value)) for key, value in labels.items()))


def _value_type(builder: _Builder, name: str, unit: str) -> bytes:
    return _TYPE_TYPE + _varint(builder.string(name)) + _TYPE_UNIT + _varint(builder.string(unit))


def encode_profile(
    rows: Iterable[Row],
    shape: Shape,
    naming: Naming,
    *,
    start_ns: int,
    end_ns: int,
    mapping_file: str,
    comments: Sequence[str] = (),
    first_sample: int = 0,
) -> bytes | None:
    """Return an uncompressed pprof of ``rows`` under the names of ``shape`` and ``naming``.

    Rows that are equal under these names are merged; those without a value are left out. See
    ``EngineWindow`` for ``first_sample``.
    """
    merged: dict[tuple[_Stack, _Labels], list[int]] = {}
    label_sets: set[_Labels] = set()
    renamed = dict(naming.label_names)
    overflow = tuple((renamed.get(key, key), value) for key, value in OVERFLOW_ITEMS)
    for row in rows:
        values = [getattr(row, column) for _, _, column in shape.sample_types]
        if not any(values):
            continue
        labels = _labels_of(row, naming)
        if naming.max_label_sets and labels not in label_sets:
            if len(label_sets) < naming.max_label_sets:
                label_sets.add(labels)
            else:
                labels = overflow
        key = (row.frames, labels)
        known = merged.get(key)
        if known is None:
            merged[key] = values
        else:
            for index, value in enumerate(values):
                known[index] += value
    builder = _Builder()
    out = [
        _delimited(_PROFILE_SAMPLE_TYPE, _value_type(builder, name, unit))
        for name, unit, _ in shape.sample_types
    ]
    end = first_sample + (naming.max_samples or len(merged))
    samples = list(merged.items())[first_sample:end]
    if first_sample and not samples:
        return None
    for (frames, labels), values in samples:
        locations = [builder.location(frame) for frame in frames]
        sample = [_packed(_SAMPLE_LOCATION, locations), _packed(_SAMPLE_VALUE, values)]
        for label, text in labels:
            payload = _LABEL_KEY + _varint(builder.string(label))
            payload += _LABEL_STRING + _varint(builder.string(text))
            sample.append(_delimited(_SAMPLE_LABEL, payload))
        out.append(_delimited(_PROFILE_SAMPLE, b"".join(sample)))
    out.append(
        _delimited(
            _PROFILE_MAPPING,
            _MAPPING_ID
            + b"\x01"
            + _MAPPING_FILENAME
            + _varint(builder.string(clean_name(mapping_file)))
            + _MAPPING_HAS_FUNCTIONS
            + _MAPPING_HAS_FILENAMES
            + _MAPPING_HAS_LINES,
        )
    )
    out.extend(builder.locations())
    out.extend(builder.functions())
    period_type = _delimited(_PROFILE_PERIOD_TYPE, _value_type(builder, *shape.period_type))
    comment = _packed(_PROFILE_COMMENT, [builder.string(clean_name(text)) for text in comments])
    default = _PROFILE_DEFAULT_TYPE + _varint(builder.string(shape.default_sample_type))
    out += [_delimited(_PROFILE_STRING, _utf8(text)) for text in builder.strings]
    out += [
        _PROFILE_TIME_NANOS + _varint(start_ns),
        _PROFILE_DURATION_NANOS + _varint(max(0, end_ns - start_ns)),
        period_type,
        _PROFILE_PERIOD + _varint(shape.period),
        comment,
        default,
    ]
    return b"".join(out)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")
