"""An independent pprof reader: bytes of any writer in, plain objects out.

It shares no code with the product and knows the wire format only from google/pprof's
``proto/profile.proto``. Unknown fields are refused, so that a slip of a field number is seen.
"""

from __future__ import annotations

import gzip
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

GZIP_MAGIC = b"\x1f\x8b"

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class WireError(ValueError):
    """The bytes are no pprof message."""


class Frame(NamedTuple):
    """One frame of a stack, as a person names it."""

    function: str
    filename: str
    line: int
    start_line: int


class ValueType(NamedTuple):
    """What a value of a sample means."""

    type: str
    unit: str


@dataclass
class Label:
    """A label as stored: a string, or a number with a unit."""

    key: str
    text: str = ""
    number: int = 0
    unit: str = ""
    is_text: bool = False


@dataclass
class Mapping:
    """Message Mapping."""

    id: int = 0
    filename: str = ""
    build_id: str = ""
    has_functions: bool = False
    has_filenames: bool = False
    has_line_numbers: bool = False
    has_inline_frames: bool = False


@dataclass
class Function:
    """Message Function."""

    id: int = 0
    name: str = ""
    system_name: str = ""
    filename: str = ""
    start_line: int = 0


@dataclass
class Line:
    """Message Line."""

    function_id: int = 0
    line: int = 0


@dataclass
class Location:
    """Message Location."""

    id: int = 0
    mapping_id: int = 0
    address: int = 0
    lines: list[Line] = field(default_factory=list)
    is_folded: bool = False


@dataclass
class Sample:
    """Message Sample, and its stack spelled out."""

    location_ids: list[int] = field(default_factory=list)
    values: list[int] = field(default_factory=list)
    stored_labels: list[Label] = field(default_factory=list)
    frames: tuple[Frame, ...] = ()  # leaf first

    @property
    def labels(self) -> dict[str, str]:
        """The string labels."""
        return {label.key: label.text for label in self.stored_labels if label.is_text}

    @property
    def numbers(self) -> dict[str, int]:
        """The numeric labels."""
        return {label.key: label.number for label in self.stored_labels if not label.is_text}

    @property
    def functions(self) -> tuple[str, ...]:
        """Function names, leaf first."""
        return tuple(frame.function for frame in self.frames)


@dataclass
class Profile:
    """Message Profile."""

    sample_types: list[ValueType] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    mappings: list[Mapping] = field(default_factory=list)
    locations: list[Location] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)
    strings: list[str] = field(default_factory=list)
    drop_frames: str = ""
    keep_frames: str = ""
    time_nanos: int = 0
    duration_nanos: int = 0
    period_type: ValueType = field(default_factory=lambda: ValueType("", ""))
    period: int = 0
    comments: list[str] = field(default_factory=list)
    default_sample_type: str = ""
    doc_url: str = ""

    def column(self, sample_type: str) -> int:
        """Return the index of a sample type, such as ``cpu``."""
        for index, known in enumerate(self.sample_types):
            if known.type == sample_type:
                return index
        raise KeyError(f"{sample_type} is not among {[known.type for known in self.sample_types]}")

    @property
    def time_type(self) -> str:
        """The sample type that is CPU time, whatever the naming calls it."""
        for known in self.sample_types:
            if known.unit == "nanoseconds":
                return known.type
        raise KeyError("no sample type in nanoseconds")

    def total(self, sample_type: str | None = None) -> int:
        """Return the sum over all samples, by default of the CPU time."""
        column = self.column(sample_type or self.time_type)
        return sum(sample.values[column] for sample in self.samples)

    def by_leaf(self, sample_type: str | None = None) -> dict[str, int]:
        """Return leaf function → sum ("flat" in pprof's words)."""
        column = self.column(sample_type or self.time_type)
        sums: dict[str, int] = defaultdict(int)
        for sample in self.samples:
            sums[sample.functions[0] if sample.frames else ""] += sample.values[column]
        return dict(sums)

    def by_function(self, sample_type: str | None = None) -> dict[str, int]:
        """Return function → sum over the stacks it stands on ("cum" in pprof's words)."""
        column = self.column(sample_type or self.time_type)
        sums: dict[str, int] = defaultdict(int)
        for sample in self.samples:
            for name in set(sample.functions):
                sums[name] += sample.values[column]
        return dict(sums)

    def by_label(self, key: str, sample_type: str | None = None) -> dict[str, int]:
        """Return label value → sum; samples without the label under ``""``."""
        column = self.column(sample_type or self.time_type)
        sums: dict[str, int] = defaultdict(int)
        for sample in self.samples:
            sums[sample.labels.get(key, "")] += sample.values[column]
        return dict(sums)


def parse(data: bytes) -> Profile:
    """Read a profile, gzip or raw.

    Raises:
        WireError: the bytes are no pprof message, or an index points nowhere.
    """
    if data[:2] == GZIP_MAGIC:
        data = gzip.decompress(data)
    profile = Profile()
    parts = list(_fields(data))
    for number, wire, value in parts:
        if number == 6:
            try:
                profile.strings.append(_bytes(wire, value).decode())
            except UnicodeDecodeError as error:
                raise WireError(f"string {len(profile.strings)} is not UTF-8: {error}") from error
    for number, wire, value in parts:
        _profile_field(profile, number, wire, value)
    _spell_out(profile)
    return profile


def parse_file(path: str | Path) -> Profile:
    """Read a profile from a file."""
    return parse(Path(path).read_bytes())


def _profile_field(profile: Profile, number: int, wire: int, value: int | bytes) -> None:
    strings = profile.strings
    match number:
        case 1:
            profile.sample_types.append(_value_type(_bytes(wire, value), strings))
        case 2:
            profile.samples.append(_sample(_bytes(wire, value), strings))
        case 3:
            profile.mappings.append(_mapping(_bytes(wire, value), strings))
        case 4:
            profile.locations.append(_location(_bytes(wire, value)))
        case 5:
            profile.functions.append(_function(_bytes(wire, value), strings))
        case 6:
            pass
        case 7:
            profile.drop_frames = _string(strings, _number(wire, value))
        case 8:
            profile.keep_frames = _string(strings, _number(wire, value))
        case 9:
            profile.time_nanos = _signed(_number(wire, value))
        case 10:
            profile.duration_nanos = _signed(_number(wire, value))
        case 11:
            profile.period_type = _value_type(_bytes(wire, value), strings)
        case 12:
            profile.period = _signed(_number(wire, value))
        case 13:
            profile.comments += [_string(strings, index) for index in _repeated(wire, value)]
        case 14:
            profile.default_sample_type = _string(strings, _number(wire, value))
        case 15:
            profile.doc_url = _string(strings, _number(wire, value))
        case _:
            raise WireError(f"Profile has no field {number}")


def _spell_out(profile: Profile) -> None:
    functions = {function.id: function for function in profile.functions}
    frames: dict[int, tuple[Frame, ...]] = {}
    for location in profile.locations:
        spelled = []
        for line in location.lines:
            function = functions.get(line.function_id, Function(name="<no such function>"))
            spelled.append(Frame(function.name, function.filename, line.line, function.start_line))
        frames[location.id] = tuple(spelled)
    for sample in profile.samples:
        sample.frames = tuple(
            frame
            for location_id in sample.location_ids
            for frame in frames.get(location_id, (Frame("<no such location>", "", 0, 0),))
        )


def _value_type(data: bytes, strings: list[str]) -> ValueType:
    parts = {1: 0, 2: 0}
    for number, wire, value in _known(data, parts, "ValueType"):
        parts[number] = _number(wire, value)
    return ValueType(_string(strings, parts[1]), _string(strings, parts[2]))


def _sample(data: bytes, strings: list[str]) -> Sample:
    sample = Sample()
    for number, wire, value in _known(data, (1, 2, 3), "Sample"):
        if number == 1:
            sample.location_ids += _repeated(wire, value)
        elif number == 2:
            sample.values += [_signed(item) for item in _repeated(wire, value)]
        else:
            sample.stored_labels.append(_label(_bytes(wire, value), strings))
    return sample


def _label(data: bytes, strings: list[str]) -> Label:
    label = Label("")
    for number, wire, value in _known(data, (1, 2, 3, 4), "Label"):
        index = _number(wire, value)
        if number == 1:
            label.key = _string(strings, index)
        elif number == 2:
            label.text, label.is_text = _string(strings, index), index != 0
        elif number == 3:
            label.number = _signed(index)
        else:
            label.unit = _string(strings, index)
    return label


def _mapping(data: bytes, strings: list[str]) -> Mapping:
    mapping = Mapping()
    flags = {7: "has_functions", 8: "has_filenames", 9: "has_line_numbers", 10: "has_inline_frames"}
    for number, wire, value in _known(data, range(1, 11), "Mapping"):
        item = _number(wire, value)
        if number == 1:
            mapping.id = item
        elif number == 5:
            mapping.filename = _string(strings, item)
        elif number == 6:
            mapping.build_id = _string(strings, item)
        elif number in flags:
            setattr(mapping, flags[number], bool(item))
    return mapping


def _location(data: bytes) -> Location:
    location = Location()
    for number, wire, value in _known(data, range(1, 6), "Location"):
        if number == 4:
            line = Line()
            for part, line_wire, item in _known(_bytes(wire, value), (1, 2, 3), "Line"):
                if part == 1:
                    line.function_id = _number(line_wire, item)
                elif part == 2:
                    line.line = _signed(_number(line_wire, item))
            location.lines.append(line)
        elif number == 1:
            location.id = _number(wire, value)
        elif number == 2:
            location.mapping_id = _number(wire, value)
        elif number == 3:
            location.address = _number(wire, value)
        else:
            location.is_folded = bool(_number(wire, value))
    return location


def _function(data: bytes, strings: list[str]) -> Function:
    function = Function()
    for number, wire, value in _known(data, range(1, 6), "Function"):
        item = _number(wire, value)
        if number == 1:
            function.id = item
        elif number == 2:
            function.name = _string(strings, item)
        elif number == 3:
            function.system_name = _string(strings, item)
        elif number == 4:
            function.filename = _string(strings, item)
        else:
            function.start_line = _signed(item)
    return function


# The wire -------------------------------------------------------------------------------------


def _known(
    data: bytes, allowed: range | tuple[int, ...] | dict[int, int], message: str
) -> Iterator[tuple[int, int, int | bytes]]:
    for number, wire, value in _fields(data):
        if number not in allowed:
            raise WireError(f"{message} has no field {number}")
        yield number, wire, value


def _fields(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise WireError(f"field number 0 at byte {at}")
        if wire == VARINT:
            value, at = _varint(data, at)
            yield number, wire, value
            continue
        if wire == BYTES:
            size, at = _varint(data, at)
        elif wire in (FIXED64, FIXED32):
            size = 8 if wire == FIXED64 else 4
        else:
            raise WireError(f"wire type {wire} at byte {at}")
        if at + size > len(data):
            raise WireError(f"field {number} is cut off at byte {at}")
        yield number, wire, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        if at >= len(data):
            raise WireError("a varint is cut off")
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise WireError(f"a varint is too long at byte {at}")
    if result >= 1 << 64:
        raise WireError(f"a varint overflows at byte {at}")
    return result, at


def _repeated(wire: int, value: int | bytes) -> list[int]:
    if wire == VARINT:
        return [_number(wire, value)]
    data, at, items = _bytes(wire, value), 0, []
    while at < len(data):
        item, at = _varint(data, at)
        items.append(item)
    return items


def _number(wire: int, value: int | bytes) -> int:
    if wire != VARINT or not isinstance(value, int):
        raise WireError(f"a number has wire type {wire}")
    return value


def _bytes(wire: int, value: int | bytes) -> bytes:
    if wire != BYTES or not isinstance(value, bytes):
        raise WireError(f"a message or string has wire type {wire}")
    return value


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _string(strings: list[str], index: int) -> str:
    if index >= len(strings):
        raise WireError(f"string index {index} of {len(strings)}")
    return strings[index]
