"""Aggregated rows → pprof bytes, in pure Python: the portable engine's encoder.

Also the reference for the C encoder: equal rows give equal profiles. Message and field numbers are
those of google/pprof ``proto/profile.proto``; eight messages, written by hand, need no protobuf.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from conprof_core._engine import Row
from conprof_core._merge import clean_name, merge_rows
from conprof_core._tables import Tables
from conprof_core._wire import delimited, packed, varint
from conprof_core.exporters.naming import Naming, Shape, SpanLabels

__all__ = ["PART_OFFSET_NS", "encode_profile"]

PART_OFFSET_NS: Final = 1_000
"""Delay of a part of a window, for each sample before it: of two profiles of equal time and labels
Pyroscope's storage of version 1 gives out one, and it counts in milliseconds. Its twin: pprof.c."""

# Field tags.
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
_LABEL_NUMBER: Final = b"\x18"  # 3
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


def _functions(tables: Tables) -> Iterable[bytes]:
    for (name, filename, start_line), number in tables.functions.items():
        yield delimited(
            _PROFILE_FUNCTION,
            _FUNCTION_ID
            + varint(number)
            + _FUNCTION_NAME
            + varint(name)
            + _FUNCTION_FILENAME
            + varint(filename)
            + _FUNCTION_START_LINE
            + varint(start_line),
        )


def _locations(tables: Tables) -> Iterable[bytes]:
    for (function, line), number in tables.locations.items():
        payload = _LINE_FUNCTION + varint(function) + _LINE_LINE + varint(line)
        yield delimited(
            _PROFILE_LOCATION,
            _LOCATION_ID + varint(number) + _LOCATION_MAPPING + delimited(_LOCATION_LINE, payload),
        )


def _value_type(tables: Tables, name: str, unit: str) -> bytes:
    return _TYPE_TYPE + varint(tables.string(name)) + _TYPE_UNIT + varint(tables.string(unit))


def _span_labels(tables: Tables, span: int, names: SpanLabels) -> Iterable[bytes]:
    for key in names.keys:
        payload = _LABEL_KEY + varint(tables.string(key))
        if names.form == "number":
            payload += _LABEL_NUMBER + varint(span)
        else:
            text = f"{span:016x}" if names.form == "hex" else str(span)
            payload += _LABEL_STRING + varint(tables.string(text))
        yield delimited(_SAMPLE_LABEL, payload)


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

    Its samples are those of ``merge_rows``; see ``EngineWindow`` for ``first_sample``.
    """
    merged = merge_rows(rows, [column for _, _, column in shape.sample_types], naming)
    tables = Tables()
    out = [
        delimited(_PROFILE_SAMPLE_TYPE, _value_type(tables, name, unit))
        for name, unit, _ in shape.sample_types
    ]
    end = first_sample + (naming.max_samples or len(merged))
    samples = list(merged.items())[first_sample:end]
    if first_sample and not samples:
        return None
    for (frames, labels, trace), values in samples:
        locations = [tables.location(frame) for frame in frames]
        sample = [packed(_SAMPLE_LOCATION, locations), packed(_SAMPLE_VALUE, values)]
        for label, text in labels:
            payload = _LABEL_KEY + varint(tables.string(label))
            payload += _LABEL_STRING + varint(tables.string(text))
            sample.append(delimited(_SAMPLE_LABEL, payload))
        if trace is not None:
            sample += _span_labels(tables, trace[1], naming.spans)
        out.append(delimited(_PROFILE_SAMPLE, b"".join(sample)))
    out.append(
        delimited(
            _PROFILE_MAPPING,
            _MAPPING_ID
            + b"\x01"
            + _MAPPING_FILENAME
            + varint(tables.string(clean_name(mapping_file)))
            + _MAPPING_HAS_FUNCTIONS
            + _MAPPING_HAS_FILENAMES
            + _MAPPING_HAS_LINES,
        )
    )
    out.extend(_locations(tables))
    out.extend(_functions(tables))
    period_type = delimited(_PROFILE_PERIOD_TYPE, _value_type(tables, *shape.period_type))
    comment = packed(_PROFILE_COMMENT, [tables.string(clean_name(text)) for text in comments])
    default = _PROFILE_DEFAULT_TYPE + varint(tables.string(shape.default_sample_type))
    out += [delimited(_PROFILE_STRING, text) for text in tables.encoded_strings()]
    out += [
        _PROFILE_TIME_NANOS + varint(start_ns + first_sample * PART_OFFSET_NS),
        _PROFILE_DURATION_NANOS + varint(max(0, end_ns - start_ns)),
        period_type,
        _PROFILE_PERIOD + varint(shape.period),
        comment,
        default,
    ]
    return b"".join(out)
