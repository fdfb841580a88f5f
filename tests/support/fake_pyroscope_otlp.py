"""What the fake Pyroscope makes of OTLP: as ``pkg/ingester/otlp`` of grafana/pyroscope."""

from __future__ import annotations

from typing import Any

from support.fake_pyroscope import FakePyroscope, RefusedError
from support.pprof_reader import Frame, Label, Profile, Sample, ValueType

__all__ = ["export"]


def export(server: FakePyroscope, body: bytes) -> None:
    """Take a request; what cannot be converted fails with HTTP 500, as in the real server."""
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.profiles.v1development import profiles_service_pb2 as service

    message = service.ExportProfilesServiceRequest()
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise RefusedError("invalid_argument", "Failed to parse protobuf request") from error
    if not message.HasField("dictionary") or not message.resource_profiles:
        raise RefusedError("unknown", "missing profile metadata dictionary, or resource profiles")
    try:
        found = [
            (_labels(resource.resource, scope.scope), _convert(profile, message.dictionary))
            for resource in message.resource_profiles
            for scope in resource.scope_profiles
            for profile in scope.profiles
        ]
    except (IndexError, ValueError) as error:
        raise RefusedError("unknown", f"failed to convert otel profile: {error}") from error
    refused = []
    for labels, (name, profile, size) in found:
        try:
            server.take([("__name__", name), *labels], profile, size)
        except RefusedError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def _labels(resource: Any, scope: Any) -> list[tuple[str, str]]:
    """Only keys in place are read, and texts and numbers."""
    labels = {"__delta__": "false", "__otel__": "true"}
    for attribute in (*resource.attributes, *scope.attributes):
        text = _as_text(attribute.value)
        if text:
            labels.setdefault(attribute.key, text)
    return [*labels.items(), ("service_name", labels.get("service.name", "unknown_service"))]


def _as_text(value: Any) -> str:
    kind = value.WhichOneof("value")
    return str(getattr(value, kind)) if kind in ("string_value", "int_value") else ""


def _convert(profile: Any, dictionary: Any) -> tuple[str, Profile, int]:
    strings = dictionary.string_table

    def named(kind: Any) -> ValueType:
        return ValueType(strings[kind.type_strindex], strings[kind.unit_strindex])

    kind, period_type = named(profile.sample_type), named(profile.period_type)
    # A series is called after its period type, and has no name without a period.
    name, factor = period_type.type if profile.period else "", 1
    if (kind, period_type) == (("samples", "count"), ("cpu", "nanoseconds")) and profile.period:
        name, kind, factor = "process_cpu", ValueType("cpu", "nanoseconds"), profile.period
    converted = Profile(
        sample_types=[kind],
        strings=[""],
        period_type=period_type,
        period=profile.period,
        time_nanos=profile.time_unix_nano,
    )
    for sample in profile.samples:
        if len(sample.values) != 1:
            raise ValueError(f"sample values length mismatch {len(sample.values)} 1")
        labels = [_label(dictionary, at) for at in sample.attribute_indices]
        if sample.link_index:
            link = dictionary.link_table[sample.link_index]
            labels.append(Label("span_id", link.span_id.hex(), is_text=True))
            labels.append(Label("trace_id", link.trace_id.hex(), is_text=True))
        frames = []
        for at in dictionary.stack_table[sample.stack_index].location_indices:
            location = dictionary.location_table[at]
            assert dictionary.mapping_table[location.mapping_index] is not None
            for line in location.lines:
                function = dictionary.function_table[line.function_index]
                text = strings[function.name_strindex], strings[function.filename_strindex]
                frames.append(Frame(*text, line.line, function.start_line))
        values = [sample.values[0] * factor]
        kept = [label for label in labels if label.text and label.key != "service.name"]
        converted.samples.append(Sample(values=values, stored_labels=kept, frames=tuple(frames)))
    return name, converted, profile.ByteSize()


def _label(dictionary: Any, at: int) -> Label:
    attribute = dictionary.attribute_table[at]
    key = dictionary.string_table[attribute.key_strindex]
    return Label(key, _as_text(attribute.value), is_text=True)
