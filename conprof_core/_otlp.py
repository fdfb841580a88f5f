"""Aggregated rows → an OTLP request, in pure Python: the portable engine's encoder.

Also the reference for the extension's ``otlp.c``: equal rows give equal bytes. Messages and field
numbers are those of opentelemetry-proto ``profiles/v1development`` since 1.10 (``profiles.proto``,
``profiles_service.proto``). The shape is the one that the OpenTelemetry Collector, Pyroscope and
Parca all take: one scope for each ``Shape``, one profile for each sample type with one value a
sample, all on one dictionary whose tables begin with their zero value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from conprof_core._engine import Row
from conprof_core._merge import Labels, Stack, Trace, merge_rows
from conprof_core._tables import Tables
from conprof_core._wire import delimited, fixed64, number, packed, varint
from conprof_core.exporters.naming import Naming, Shape

__all__ = ["encode_request", "encode_resource"]

PROFILE_ID_BYTES: Final = 16

# Field tags.
_REQUEST_RESOURCE_PROFILES: Final = b"\x0a"  # 1
_REQUEST_DICTIONARY: Final = b"\x12"  # 2
_RESOURCE_PROFILES_RESOURCE: Final = b"\x0a"  # 1
_RESOURCE_PROFILES_SCOPE_PROFILES: Final = b"\x12"  # 2
_RESOURCE_ATTRIBUTES: Final = b"\x0a"  # 1
_KEY_VALUE_KEY: Final = b"\x0a"  # 1; an inline key: Pyroscope and Parca read no other here
_KEY_VALUE_VALUE: Final = b"\x12"  # 2
_SCOPE_PROFILES_SCOPE: Final = b"\x0a"  # 1
_SCOPE_PROFILES_PROFILES: Final = b"\x12"  # 2
_SCOPE_NAME: Final = b"\x0a"  # 1
_SCOPE_VERSION: Final = b"\x12"  # 2
_PROFILE_SAMPLE_TYPE: Final = b"\x0a"  # 1
_PROFILE_SAMPLES: Final = b"\x12"  # 2
_PROFILE_TIME_UNIX_NANO: Final = b"\x19"  # 3, fixed64
_PROFILE_DURATION_NANO: Final = b"\x20"  # 4
_PROFILE_PERIOD_TYPE: Final = b"\x2a"  # 5
_PROFILE_PERIOD: Final = b"\x30"  # 6
_PROFILE_PROFILE_ID: Final = b"\x3a"  # 7
_PROFILE_ATTRIBUTE_INDICES: Final = b"\x5a"  # 11, packed
_TYPE_TYPE: Final = b"\x08"  # 1
_TYPE_UNIT: Final = b"\x10"  # 2
_SAMPLE_STACK_INDEX: Final = b"\x08"  # 1
_SAMPLE_ATTRIBUTE_INDICES: Final = b"\x12"  # 2, packed
_SAMPLE_LINK_INDEX: Final = b"\x18"  # 3
_SAMPLE_VALUES: Final = b"\x22"  # 4, packed
_DICTIONARY_MAPPINGS: Final = b"\x0a"  # 1
_DICTIONARY_LOCATIONS: Final = b"\x12"  # 2
_DICTIONARY_FUNCTIONS: Final = b"\x1a"  # 3
_DICTIONARY_LINKS: Final = b"\x22"  # 4
_DICTIONARY_STRINGS: Final = b"\x2a"  # 5
_DICTIONARY_ATTRIBUTES: Final = b"\x32"  # 6
_DICTIONARY_STACKS: Final = b"\x3a"  # 7
_LINK_TRACE_ID: Final = b"\x0a"  # 1
_LINK_SPAN_ID: Final = b"\x12"  # 2
_STACK_LOCATION_INDICES: Final = b"\x0a"  # 1, packed
_LOCATION_LINES: Final = b"\x1a"  # 3
_LOCATION_ATTRIBUTE_INDICES: Final = b"\x22"  # 4, packed
_LINE_FUNCTION_INDEX: Final = b"\x08"  # 1
_LINE_LINE: Final = b"\x10"  # 2
_FUNCTION_NAME: Final = b"\x08"  # 1
_FUNCTION_FILENAME: Final = b"\x18"  # 3; 2, the system name, stays 0
_FUNCTION_START_LINE: Final = b"\x20"  # 4
_ATTRIBUTE_KEY: Final = b"\x08"  # 1
_ATTRIBUTE_VALUE: Final = b"\x12"  # 2
_VALUE_STRING: Final = b"\x0a"  # 1
_VALUE_INT: Final = b"\x18"  # 3

_FRAME_TYPE: Final = ("profile.frame.type", "cpython")


def encode_resource(attributes: Mapping[str, str]) -> bytes:
    """Return a ``Resource`` with text attributes; empty keys and values are left out."""
    return b"".join(
        delimited(
            _RESOURCE_ATTRIBUTES,
            delimited(_KEY_VALUE_KEY, _utf8(key))
            + delimited(_KEY_VALUE_VALUE, delimited(_VALUE_STRING, _utf8(value))),
        )
        for key, value in attributes.items()
        if key and value
    )


def encode_request(
    rows: Iterable[Row],
    naming: Naming,
    *,
    start_ns: int,
    end_ns: int,
    resource: bytes,
    version: str,
    profile_id: bytes,
    attributes: Sequence[tuple[str, int]] = (),
) -> bytes | None:
    """Return an uncompressed ``ExportProfilesServiceRequest``; ``None`` without any sample.

    Its samples are those of ``merge_rows``; see ``EngineWindow.encode_otlp`` for the arguments.
    """
    if len(profile_id) != PROFILE_ID_BYTES:
        raise ValueError(f"a profile id has {PROFILE_ID_BYTES} bytes")
    columns = [column for shape in naming.shapes for _, _, column in shape.sample_types]
    merged = merge_rows(rows, columns, naming)
    if not merged:
        return None
    dictionary = _Dictionary()
    samples = [
        (dictionary.stack(stack), dictionary.labels(labels) + dictionary.link(trace), values)
        for (stack, labels, trace), values in merged.items()
    ]
    fields = [
        fixed64(_PROFILE_TIME_UNIX_NANO, start_ns),
        number(_PROFILE_DURATION_NANO, max(0, end_ns - start_ns)),
        dictionary.indices(_PROFILE_ATTRIBUTE_INDICES, attributes),
    ]
    request = _Request(naming, samples, dictionary, fields, profile_id)
    scopes = request.scopes(version)
    return delimited(
        _REQUEST_RESOURCE_PROFILES,
        delimited(_RESOURCE_PROFILES_RESOURCE, resource) + b"".join(scopes),
    ) + delimited(_REQUEST_DICTIONARY, b"".join(dictionary.encoded()))


class _Request:
    """Writes the profiles of one request: none, one or more for each sample type."""

    def __init__(
        self,
        naming: Naming,
        samples: list[tuple[int, bytes, list[int]]],
        dictionary: _Dictionary,
        fields: list[bytes],
        profile_id: bytes,
    ) -> None:
        self._naming = naming
        self._samples = samples
        self._dictionary = dictionary
        self._time, self._duration, self._attributes = fields
        self._profile_id = int.from_bytes(profile_id, "big")
        self._profiles = 0

    def scopes(self, version: str) -> list[bytes]:
        """Return the ``ScopeProfiles``, those without a profile left out."""
        scopes = []
        column = 0
        for shape in self._naming.shapes:
            scope = delimited(_SCOPE_NAME, _utf8(shape.name))
            scope += delimited(_SCOPE_VERSION, _utf8(version))
            profiles: list[bytes] = []
            for kind, unit, _ in shape.sample_types:
                profiles += self._of_type(shape, (kind, unit), column)
                column += 1
            if profiles:
                content = delimited(_SCOPE_PROFILES_SCOPE, scope) + b"".join(profiles)
                scopes.append(delimited(_RESOURCE_PROFILES_SCOPE_PROFILES, content))
        return scopes

    def _of_type(self, shape: Shape, kind: tuple[str, str], column: int) -> Iterator[bytes]:
        samples = [
            delimited(
                _PROFILE_SAMPLES,
                number(_SAMPLE_STACK_INDEX, stack)
                + labels
                + packed(_SAMPLE_VALUES, (values[column],)),
            )
            for stack, labels, values in self._samples
            if values[column]
        ]
        size = self._naming.max_samples or max(1, len(samples))
        for first in range(0, len(samples), size):
            sample_type = delimited(_PROFILE_SAMPLE_TYPE, self._value_type(*kind))
            period_type = delimited(_PROFILE_PERIOD_TYPE, self._value_type(*shape.period_type))
            # Ids of a request differ in their last two bytes.
            identity = self._profile_id ^ (self._profiles & 0xFFFF)
            self._profiles += 1
            yield delimited(
                _SCOPE_PROFILES_PROFILES,
                sample_type
                + b"".join(samples[first : first + size])
                + self._time
                + self._duration
                + period_type
                + number(_PROFILE_PERIOD, shape.period)
                + delimited(_PROFILE_PROFILE_ID, identity.to_bytes(PROFILE_ID_BYTES, "big"))
                + self._attributes,
            )

    def _value_type(self, kind: str, unit: str) -> bytes:
        strings = self._dictionary.tables
        return number(_TYPE_TYPE, strings.string(kind)) + number(_TYPE_UNIT, strings.string(unit))


class _Dictionary:
    """The tables of one request; index 0 of each is its zero value."""

    def __init__(self) -> None:
        self.tables = Tables()
        self._attributes: dict[tuple[int, int, int], int] = {}  # (key, text or 0, number)
        self._stacks: dict[tuple[int, ...], int] = {(): 0}
        self._known: dict[Labels, bytes] = {}
        self._links: dict[tuple[int, int], int] = {}

    def stack(self, frames: Stack) -> int:
        """Return the index of a stack."""
        locations = tuple(self.tables.location(frame) for frame in frames)
        return self._stacks.setdefault(locations, len(self._stacks))

    def labels(self, labels: Labels) -> bytes:
        """Return the attribute indices of a sample, as its field; empty without labels."""
        found = self._known.get(labels)
        if found is None:
            found = self._known[labels] = self.indices(_SAMPLE_ATTRIBUTE_INDICES, labels)
        return found

    def link(self, trace: Trace) -> bytes:
        """Return the link of a sample, as its field; empty without a trace."""
        if trace is None:
            return b""
        return number(_SAMPLE_LINK_INDEX, self._links.setdefault(trace, len(self._links) + 1))

    def indices(self, tag: bytes, attributes: Sequence[tuple[str, str | int]]) -> bytes:
        """Return a field of attribute indices; empty without attributes."""
        indices = [self._attribute(key, value) for key, value in attributes]
        return packed(tag, indices) if indices else b""

    def _attribute(self, key: str, value: str | int) -> int:
        key_index = self.tables.string(key)
        if isinstance(value, str):
            entry = (key_index, self.tables.string(value), 0)
        else:
            entry = (key_index, 0, value)
        return self._attributes.setdefault(entry, len(self._attributes) + 1)

    def encoded(self) -> Iterator[bytes]:
        """Yield the tables; last, when samples and profiles have all their indices."""
        yield delimited(_DICTIONARY_MAPPINGS, b"")  # no mapping: Python code is in none
        yield from self._locations()
        yield from self._functions()
        yield delimited(_DICTIONARY_LINKS, b"")  # no link; Parca wants its fields unset
        for trace_id, span_id in self._links:
            link = delimited(_LINK_TRACE_ID, trace_id.to_bytes(16, "big"))
            link += delimited(_LINK_SPAN_ID, span_id.to_bytes(8, "big"))
            yield delimited(_DICTIONARY_LINKS, link)
        strings = self.tables.encoded_strings()
        for text in strings:
            yield delimited(_DICTIONARY_STRINGS, text)
        yield delimited(_DICTIONARY_ATTRIBUTES, b"")
        for key, text_index, value in self._attributes:
            if text_index:
                content = delimited(_VALUE_STRING, strings[text_index])
            else:
                content = _VALUE_INT + varint(value)  # of a oneof: also a zero is written
            attribute = number(_ATTRIBUTE_KEY, key) + delimited(_ATTRIBUTE_VALUE, content)
            yield delimited(_DICTIONARY_ATTRIBUTES, attribute)
        for stack in self._stacks:
            locations = packed(_STACK_LOCATION_INDICES, stack) if stack else b""
            yield delimited(_DICTIONARY_STACKS, locations)

    def _locations(self) -> Iterator[bytes]:
        yield delimited(_DICTIONARY_LOCATIONS, b"")
        files = [filename for _, filename, _ in self.tables.functions]
        for function, line in self.tables.locations:
            content = number(_LINE_FUNCTION_INDEX, function) + number(_LINE_LINE, line)
            location = delimited(_LOCATION_LINES, content)
            if files[function - 1]:  # a frame without a file is synthetic
                location += self.indices(_LOCATION_ATTRIBUTE_INDICES, (_FRAME_TYPE,))
            yield delimited(_DICTIONARY_LOCATIONS, location)

    def _functions(self) -> Iterator[bytes]:
        yield delimited(_DICTIONARY_FUNCTIONS, b"")
        for name, filename, start_line in self.tables.functions:
            yield delimited(
                _DICTIONARY_FUNCTIONS,
                number(_FUNCTION_NAME, name)
                + number(_FUNCTION_FILENAME, filename)
                + number(_FUNCTION_START_LINE, start_line),
            )


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")
