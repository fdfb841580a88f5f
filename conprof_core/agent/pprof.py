"""pprof bytes → tables, with every index and count checked. Written for input nobody vouches for.

Field numbers are those of google/pprof ``proto/profile.proto``; the checks are those of its
``CheckValid`` and decoder, with bounds on top. Unknown fields are skipped, as protobuf wants.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from conprof_core.agent import limits
from conprof_core.agent.errors import UploadRefusedError
from conprof_core.agent.text import clean

__all__ = ["Frame", "Profile", "Sample", "decode"]

# function name, file name, line
Frame = tuple[str, str, int]

_VARINT: Final = 0
_FIXED64: Final = 1
_LENGTH: Final = 2
_FIXED32: Final = 5
_SIGN: Final = 1 << 63
_SPAN_KEYS: Final = frozenset({"span id", "local root span id", "span_id", "trace_id"})


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample: location ids leaf first, one value for each sample type, string labels."""

    locations: tuple[int, ...]
    values: tuple[int, ...]
    labels: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Profile:
    """A decoded profile.

    Attributes:
        sample_types: (type, unit) in wire order.
        locations: location id → its frames, leaf first (several where calls were inlined).
        time_ns, duration_ns: as written, 0 when absent.
    """

    sample_types: tuple[tuple[str, str], ...]
    samples: list[Sample]
    locations: dict[int, tuple[Frame, ...]]
    time_ns: int
    duration_ns: int
    default_type: str


def decode(data: bytes) -> Profile:
    """Return the tables of an uncompressed profile.

    Raises:
        UploadRefusedError: the bytes are not a valid profile, or exceed a bound.
    """
    try:
        return _decode(data)
    except IndexError:
        raise UploadRefusedError("not a pprof profile: it ends inside a field") from None


def _fields(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field, wire type, value or start, end of payload) of one message."""
    while position < end:
        key = data[position]
        position += 1
        if key >= 0x80:
            key, position = _varint(data, position - 1)
        wire = key & 7
        if wire == _VARINT:
            value = data[position]
            position += 1
            if value >= 0x80:
                value, position = _varint(data, position - 1)
            if position > end:
                raise UploadRefusedError("not a pprof profile: a field leaves its message")
            yield key >> 3, wire, value, position
        elif wire == _LENGTH:
            size = data[position]
            position += 1
            if size >= 0x80:
                size, position = _varint(data, position - 1)
            stop = position + size
            if stop > end:
                raise UploadRefusedError("not a pprof profile: a field leaves its message")
            yield key >> 3, wire, position, stop
            position = stop
        elif wire in (_FIXED64, _FIXED32):
            position += 8 if wire == _FIXED64 else 4
            if position > end:
                raise UploadRefusedError("not a pprof profile: a field leaves its message")
        else:
            raise UploadRefusedError("not a pprof profile: unknown wire type")
        if key < 8:
            raise UploadRefusedError("not a pprof profile: field number 0")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
        shift += 7
        if shift > 63:
            raise UploadRefusedError("not a pprof profile: a number longer than 64 bits")


def _packed(data: bytes, start: int, end: int) -> list[int]:
    chunk = data[start:end]
    if chunk.isascii():  # every number below 128 is one byte: most stacks and small values
        return list(chunk)
    values: list[int] = []
    append = values.append
    value = shift = 0
    for byte in chunk:
        if byte < 0x80:
            append(value | byte << shift if shift else byte)
            value = shift = 0
        else:
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift > 63:
                raise UploadRefusedError("not a pprof profile: a number longer than 64 bits")
    if shift:
        raise UploadRefusedError("not a pprof profile: it ends inside a number")
    return values


def _signed(value: int) -> int:
    value &= 0xFFFF_FFFF_FFFF_FFFF
    return value - (1 << 64) if value & _SIGN else value


def _decode(data: bytes) -> Profile:
    strings: list[str] = []
    type_spans: list[tuple[int, int]] = []
    sample_spans: list[tuple[int, int]] = []
    location_spans: list[tuple[int, int]] = []
    function_spans: list[tuple[int, int]] = []
    mapping_spans: list[tuple[int, int]] = []
    numbers: dict[int, int] = {}
    spans = {
        1: (type_spans, limits.MAX_SAMPLE_TYPES, "sample types"),
        2: (sample_spans, limits.MAX_SAMPLES, "samples"),
        3: (mapping_spans, limits.MAX_TABLE, "mappings"),
        4: (location_spans, limits.MAX_TABLE, "locations"),
        5: (function_spans, limits.MAX_TABLE, "functions"),
    }
    for field, wire, value, end in _fields(data, 0, len(data)):
        if field == 6:
            _want(wire, _LENGTH)
            if len(strings) == limits.MAX_TABLE:
                raise UploadRefusedError("too many strings in the profile", 413)
            # UTF-8 takes up to four bytes a character; what is cut here clean() would cut too.
            end = min(end, value + 4 * limits.MAX_NAME + 4)
            strings.append(clean(data[value:end].decode("utf-8", "replace"), limits.MAX_NAME))
        elif field in spans:
            _want(wire, _LENGTH)
            table, bound, what = spans[field]
            if len(table) == bound:
                raise UploadRefusedError(f"more than {bound} {what} in the profile", 413)
            table.append((value, end))
        elif field in (9, 10, 14):
            _want(wire, _VARINT)
            numbers[field] = _signed(value)
    if not type_spans:
        raise UploadRefusedError("not a pprof profile: no sample type")
    if not strings or strings[0]:
        raise UploadRefusedError("not a pprof profile: the first string is not empty")
    types = tuple(_value_type(data, span, strings) for span in type_spans)
    functions = _functions(data, function_spans, strings)
    locations = _locations(data, location_spans, functions, _mappings(data, mapping_spans, strings))
    samples = _samples(data, sample_spans, len(types), locations, strings)
    return Profile(
        types,
        samples,
        locations,
        numbers.get(9, 0),
        numbers.get(10, 0),
        _string(strings, numbers.get(14, 0)),
    )


def _want(wire: int, wanted: int) -> None:
    if wire != wanted:
        raise UploadRefusedError("not a pprof profile: a field has the wrong type")


def _string(strings: list[str], index: int) -> str:
    if not 0 <= index < len(strings):
        raise UploadRefusedError("not a pprof profile: string index out of range")
    return strings[index]


def _scalars(data: bytes, span: tuple[int, int]) -> dict[int, int]:
    """Return the numbers of a flat message: most messages of a profile, so the loop is unrolled."""
    position, end = span
    found: dict[int, int] = {}
    while position < end:
        key = data[position]
        if key & 0x87 or key < 8:  # not a number, or a field number above 15
            return found | {f: v for f, wire, v, _ in _fields(data, position, end) if not wire}
        value = data[position + 1]
        position += 2
        if value >= 0x80:
            value, position = _varint(data, position - 1)
        if position > end:
            raise UploadRefusedError("not a pprof profile: a field leaves its message")
        found[key >> 3] = value
    return found


def _value_type(data: bytes, span: tuple[int, int], strings: list[str]) -> tuple[str, str]:
    found = _scalars(data, span)
    name = _string(strings, found.get(1, 0))
    if not name:
        raise UploadRefusedError("not a pprof profile: a sample type has no name")
    return name, _string(strings, found.get(2, 0))


def _mappings(data: bytes, spans: list[tuple[int, int]], strings: list[str]) -> dict[int, str]:
    table: dict[int, str] = {}
    for span in spans:
        found = _scalars(data, span)
        _claim(found.get(1, 0), table, "mapping")
        table[found[1]] = _string(strings, found.get(5, 0))
    return table


def _functions(
    data: bytes, spans: list[tuple[int, int]], strings: list[str]
) -> dict[int, tuple[str, str, int]]:
    table: dict[int, tuple[str, str, int]] = {}
    for span in spans:
        found = _scalars(data, span)
        _claim(found.get(1, 0), table, "function")
        name = _string(strings, found.get(2, 0)) or _string(strings, found.get(3, 0))
        start = found.get(5, 0)
        table[found[1]] = (name or "[unnamed]", _string(strings, found.get(4, 0)), start)
    return table


def _claim(identity: int, table: dict[int, object] | dict[int, str] | object, what: str) -> None:
    if identity == 0 or identity in table:  # type: ignore[operator]
        raise UploadRefusedError(f"not a pprof profile: {what} id {identity} is zero or taken")


def _locations(
    data: bytes,
    spans: list[tuple[int, int]],
    functions: dict[int, tuple[str, str, int]],
    mappings: dict[int, str],
) -> dict[int, tuple[Frame, ...]]:
    table: dict[int, tuple[Frame, ...]] = {}
    for span in spans:
        identity = mapping = address = 0
        frames: list[Frame] = []
        for field, wire, value, end in _fields(data, *span):
            if field == 4 and wire == _LENGTH:
                if len(frames) == limits.MAX_FRAMES_IN_STACK:
                    raise UploadRefusedError("too many inlined lines in a location", 413)
                line = _scalars(data, (value, end))
                function = functions.get(line.get(1, 0))
                if function is None:
                    raise UploadRefusedError("not a pprof profile: a line names no function")
                number = line.get(2, 0)
                frames.append((function[0], function[1], number if number < 1 << 31 else 0))
            elif wire == _VARINT:
                if field == 1:
                    identity = value
                elif field == 2:
                    mapping = value
                elif field == 3:
                    address = value
        _claim(identity, table, "location")
        if mapping and mapping not in mappings:
            raise UploadRefusedError("not a pprof profile: a location names no mapping")
        if not frames:
            frames.append((f"0x{address:x}", mappings.get(mapping, ""), 0))
        table[identity] = tuple(frames)
    return table


def _samples(
    data: bytes,
    spans: list[tuple[int, int]],
    width: int,
    locations: dict[int, tuple[Frame, ...]],
    strings: list[str],
) -> list[Sample]:
    samples: list[Sample] = []
    sums = [0] * width
    budget = limits.MAX_FRAMES_IN_PROFILE
    known = frozenset(locations)
    labels_seen: dict[tuple[int, ...], tuple[tuple[str, str], ...]] = {}
    label_spans: dict[bytes, tuple[int, ...]] = {}
    for span in spans:
        stack: list[int] = []
        values: list[int] = []
        pairs: list[int] = []
        for field, wire, value, end in _fields(data, *span):
            if field == 1:
                stack += _packed(data, value, end) if wire == _LENGTH else (value,)
            elif field == 2:
                values += _packed(data, value, end) if wire == _LENGTH else (value,)
            elif field == 3 and wire == _LENGTH:
                content = data[value:end]
                pair = label_spans.get(content)
                if pair is None:
                    label = _scalars(data, (value, end))
                    # Numeric labels are ids and timestamps: of no use in a merge. So are ids
                    # of spans that are texts, and each would be a label set of its own.
                    pair = (label.get(1, 0), label[2]) if label.get(2, 0) else ()
                    if pair and _string(strings, pair[0]) in _SPAN_KEYS:
                        pair = ()
                    label_spans[content] = pair
                pairs += pair
        if len(values) != width:
            raise UploadRefusedError(f"not a pprof profile: {len(values)} values for {width} types")
        if len(stack) > limits.MAX_FRAMES_IN_STACK:
            raise UploadRefusedError("a stack is deeper than the bound", 413)
        budget -= len(stack)
        if budget < 0:
            raise UploadRefusedError("the stacks together are larger than the bound", 413)
        if len(pairs) > 2 * limits.MAX_LABELS_IN_SAMPLE:
            raise UploadRefusedError("too many labels on a sample", 413)
        if not known.issuperset(stack):
            raise UploadRefusedError("not a pprof profile: a sample names no location")
        for column, value in enumerate(values):
            if value >= _SIGN:
                raise UploadRefusedError("a value is negative")
            sums[column] += value
        key = tuple(pairs)
        labels = labels_seen.get(key)
        if labels is None:
            found = (_string(strings, index) for index in key)
            labels = labels_seen[key] = tuple(zip(found, found, strict=True))
        samples.append(Sample(tuple(stack), tuple(values), labels))
    if any(total > limits.MAX_SUM for total in sums):
        raise UploadRefusedError("the values of a type add up to more than 2^53")
    return samples
