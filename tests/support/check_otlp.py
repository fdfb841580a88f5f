"""Reads an OTLP profiles request with OpenTelemetry's own classes and checks what it must hold.

Sources: opentelemetry-proto ``profiles.proto`` (rules of the tables), and what Pyroscope
(``pkg/ingester/otlp``) and Parca (``pkg/normalizer``) refuse beyond them.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["Request", "Sample", "check_request"]


class Sample(NamedTuple):
    """One sample, resolved: frames are (function, file, line, start line), the leaf first."""

    frames: tuple[tuple[str, str, int, int], ...]
    labels: tuple[tuple[str, str], ...]
    value: int
    link: tuple[str, ...] = ()  # trace id and span id, hexadecimal


class Request:
    """One request, resolved.

    Attributes:
        resource: attributes of the resource.
        profiles: (scope, sample type, unit) → samples, those of several profiles together.
        sizes: the same → number of samples of each profile.
        periods: the same → (type, unit, period).
        attributes: what stands with every profile.
    """

    def __init__(self, message: Any) -> None:
        self.message = message
        self._dictionary = message.dictionary
        self.resource: dict[str, str] = {}
        self.profiles: dict[tuple[str, str, str], list[Sample]] = {}
        self.sizes: dict[tuple[str, str, str], list[int]] = {}
        self.periods: dict[tuple[str, str, str], tuple[str, str, int]] = {}
        self.attributes: dict[str, Any] = {}
        self.versions: set[str] = set()
        self.spans: set[tuple[int, int]] = set()
        (resource,) = message.resource_profiles
        for attribute in resource.resource.attributes:
            # Both may be references into the dictionary; a Collector makes them so.
            key = attribute.key or self._dictionary.string_table[attribute.key_strindex]
            assert key, "an attribute without a key"
            assert key not in self.resource, f"{key} stands twice"
            self.resource[key] = self._value(attribute.value)
        for scope in resource.scope_profiles:
            self.versions.add(scope.scope.version)
            assert scope.profiles, "a scope without a profile"
            for profile in scope.profiles:
                self._read(scope.scope.name, profile)

    def _read(self, scope: str, profile: Any) -> None:
        strings = self._dictionary.string_table
        kind = profile.sample_type
        name = (scope, strings[kind.type_strindex], strings[kind.unit_strindex])
        period = profile.period_type
        self.periods[name] = (
            strings[period.type_strindex],
            strings[period.unit_strindex],
            profile.period,
        )
        self.sizes.setdefault(name, []).append(len(profile.samples))
        self.spans.add((profile.time_unix_nano, profile.duration_nano))
        self.attributes.update(self._attributes(profile.attribute_indices))
        self.profiles.setdefault(name, []).extend(map(self._sample, profile.samples))

    def _sample(self, sample: Any) -> Sample:
        (value,) = sample.values
        stack = self._dictionary.stack_table[sample.stack_index]
        frames = tuple(self._frame(index) for index in stack.location_indices)
        labels = tuple(sorted(self._attributes(sample.attribute_indices).items()))
        return Sample(frames, labels, value, self._link(sample.link_index))

    def _link(self, index: int) -> tuple[str, ...]:
        link = self._dictionary.link_table[index]
        if index == 0:
            return ()
        assert (len(link.trace_id), len(link.span_id)) == (16, 8)
        return (link.trace_id.hex(), link.span_id.hex())

    def _frame(self, index: int) -> tuple[str, str, int, int]:
        strings = self._dictionary.string_table
        location = self._dictionary.location_table[index]
        (line,) = location.lines
        function = self._dictionary.function_table[line.function_index]
        filename = strings[function.filename_strindex]
        kinds = self._attributes(location.attribute_indices)
        assert kinds == ({"profile.frame.type": "cpython"} if filename else {})
        name = strings[function.name_strindex]
        return (name, filename, line.line, function.start_line)

    def _attributes(self, indices: Sequence[int]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for index in indices:
            assert index, "attribute 0 is none"
            attribute = self._dictionary.attribute_table[index]
            key = self._dictionary.string_table[attribute.key_strindex]
            assert key not in found, f"{key} stands twice"
            found[key] = self._value(attribute.value)
        return found

    def _value(self, value: Any) -> Any:
        kind = value.WhichOneof("value")
        if kind == "string_value_strindex":
            return self._dictionary.string_table[value.string_value_strindex]
        return getattr(value, kind)

    def total(self, scope: str, kind: str) -> int:
        """Return the sum of one sample type."""
        return sum(
            sample.value
            for (of, name, _), samples in self.profiles.items()
            if (of, name) == (scope, kind)
            for sample in samples
        )


def check_request(data: bytes) -> Request:
    """Decode and check one request, raw or gzip'ed; the usual entry point of a test."""
    from opentelemetry.proto.collector.profiles.v1development import profiles_service_pb2 as service

    message = service.ExportProfilesServiceRequest()
    raw = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    message.ParseFromString(raw)
    assert _unknown(message) == 0, "fields that the messages do not have"
    _check_tables(message.dictionary)
    _check_use(message)
    return Request(message)


def _unknown(message: Any) -> int:
    # What a message does not know it keeps, and writes again: so it shows in the size.
    kept = message.ByteSize()
    message.DiscardUnknownFields()
    return int(kept - message.ByteSize())


def _check_tables(dictionary: Any) -> None:
    """Index 0 is the zero value, nothing stands twice, every index is in range."""
    strings = len(dictionary.string_table)
    assert dictionary.string_table[0] == ""
    for name in ("mapping", "location", "function", "link", "attribute", "stack"):
        table = getattr(dictionary, f"{name}_table")
        assert table, f"{name}_table is empty"
        # Parca takes no link with zero-filled ids: the zero value has no bytes at all.
        assert table[0].SerializeToString() == b"", f"{name}_table[0] is not the zero value"
        entries = [entry.SerializeToString(deterministic=True) for entry in table]
        assert len(set(entries)) == len(entries), f"{name}_table holds something twice"
    assert len(set(dictionary.string_table)) == strings, "string_table holds something twice"
    for location in dictionary.location_table[1:]:
        assert location.mapping_index < len(dictionary.mapping_table)
        for line in location.lines:
            assert 0 < line.function_index < len(dictionary.function_table)
    for function in dictionary.function_table[1:]:
        assert 0 < function.name_strindex < strings
        assert function.system_name_strindex == 0
        assert 0 <= function.filename_strindex < strings
    for attribute in dictionary.attribute_table[1:]:
        assert 0 < attribute.key_strindex < strings
        assert attribute.value.WhichOneof("value")
    for stack in dictionary.stack_table[1:]:
        assert all(0 < i < len(dictionary.location_table) for i in stack.location_indices)


def _check_use(message: Any) -> None:
    """Every entry is used, and profiles have what receivers ask for."""
    dictionary = message.dictionary
    stacks, attributes, links, ids = {0}, {0}, {0}, set[bytes]()
    for resource in message.resource_profiles:
        for attribute in resource.resource.attributes:
            assert attribute.key, "Pyroscope and Parca read inline keys of a resource only"
            assert attribute.value.WhichOneof("value") == "string_value"
        for profile in (p for scope in resource.scope_profiles for p in scope.profiles):
            assert profile.samples
            assert profile.time_unix_nano
            assert profile.period > 0
            assert profile.HasField("period_type")
            assert len(profile.profile_id) == 16
            assert profile.profile_id != bytes(16)
            ids.add(profile.profile_id)
            attributes.update(profile.attribute_indices)
            identities = set()
            for sample in profile.samples:
                assert len(sample.values) == 1, "one value a sample"
                assert not sample.timestamps_unix_nano
                links.add(sample.link_index)
                identity = (
                    sample.stack_index,
                    sample.link_index,
                    *sorted(sample.attribute_indices),
                )
                assert identity not in identities, "equal samples are to be merged"
                identities.add(identity)
                stacks.add(sample.stack_index)
                attributes.update(sample.attribute_indices)
        profiles = sum(len(scope.profiles) for scope in resource.scope_profiles)
        assert len(ids) == profiles, "profile ids are unique"
    locations = {0}.union(*(dictionary.stack_table[i].location_indices for i in stacks))
    functions = {0}
    for index in locations:
        functions.update(line.function_index for line in dictionary.location_table[index].lines)
        attributes.update(dictionary.location_table[index].attribute_indices)
    assert stacks == set(range(len(dictionary.stack_table)))
    assert locations == set(range(len(dictionary.location_table)))
    assert functions == set(range(len(dictionary.function_table)))
    assert attributes == set(range(len(dictionary.attribute_table)))
    assert links == set(range(len(dictionary.link_table)))
