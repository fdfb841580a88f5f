"""Ids on the wire, in each naming, as independent readers see them."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from support.check_otlp import check_request
from support.check_valid import check_bytes

from conprof_core import Profiler, request_scope
from conprof_core._engine import Row
from conprof_core._labels import context_var
from conprof_core._otlp import encode_request
from conprof_core._pprof import encode_profile
from conprof_core.exporters import naming
from conprof_core.exporters.naming import Measured, Naming
from conprof_core.testing import MemoryExporter

from .conftest import burn

MEASURED = Measured(rate_hz=1000)
NAMINGS = {
    "blackfire": naming.blackfire(MEASURED),
    "go": naming.go(MEASURED),
    "pyroscope": naming.pyroscope(MEASURED),
    "otlp": naming.otlp(MEASURED),
}
# Ids as tracers make them: any bit may be set, and leading zeros may stand.
ONE = (0x0000_1111_2222_3333_8444_5555_6666_7777, 0xFEDC_BA98_7654_3210)
TWO = (0x8000_0000_0000_0000_0000_0000_0000_0001, 0x0000_0000_0000_00AB)


def first_request() -> None:
    burn(0.1)


def second_request() -> None:
    burn(0.1)


def nobodys() -> None:
    burn(0.1)


def windows_of_two_requests(**options: Any) -> tuple[dict[str, bytes], list[Row]]:
    """Naming → the one profile of the same session, and its rows."""
    exporters = {name: MemoryExporter(names) for name, names in NAMINGS.items()}
    profiler = Profiler(cpu_profile_rate=1000, exporters=list(exporters.values()), **options)
    rows: list[Row] = []
    profiler.observe(rows.extend)
    profiler.start()
    for work, ids in ((first_request, ONE), (second_request, TWO), (nobodys, None)):
        with request_scope({"http.request.method": "GET"}) as scope:
            cell = context_var.get()
            assert cell is not None
            if ids is not None:
                cell.set_trace(ids[0] >> 64, ids[0] & (1 << 64) - 1, ids[1])
            work()
            scope.bind({"http.route": "/r"})
    profiler.stop()
    found = {}
    for name, exporter in exporters.items():
        (window,) = exporter.windows
        found[name] = window.profiles[0].pprof_gz
    return found, rows


@pytest.fixture
def sent(engine: str) -> tuple[dict[str, bytes], list[Row]]:
    """One session of each engine."""
    return windows_of_two_requests()


def spans_of(sent: bytes, function: str) -> set[tuple[Any, ...]]:
    """All labels that hold a span id, of samples with a function on their stack."""
    return {
        tuple(
            (label.key, label.text if label.is_text else label.number)
            for label in sample.stored_labels
            if "span" in label.key or "trace_id" in label.key
        )
        for sample in check_bytes(sent).samples
        if function in sample.functions
    }


def test_as_numbers_for_blackfire(sent: tuple[dict[str, bytes], list[Row]]) -> None:
    """Two's complement, as ddtrace's profiler; readers drop zeros, and no span has one."""
    profile = sent[0]["blackfire"]
    (signed,) = struct.unpack("<q", struct.pack("<Q", ONE[1]))
    assert signed < 0, "premise: the highest bit is set"
    assert spans_of(profile, "first_request") == {
        (("span id", signed), ("local root span id", signed))
    }
    assert spans_of(profile, "second_request") == {
        (("span id", 0xAB), ("local root span id", 0xAB))
    }
    assert spans_of(profile, "nobodys") == {()}
    endpoints = {
        sample.labels.get("trace endpoint")
        for sample in check_bytes(profile).samples
        if sample.numbers
    }
    assert endpoints == {"/r"}


def test_as_decimal_texts_for_pprof(sent: tuple[dict[str, bytes], list[Row]]) -> None:
    profile = sent[0]["go"]
    text = str(ONE[1])
    assert spans_of(profile, "first_request") == {(("span id", text), ("local root span id", text))}
    assert spans_of(profile, "nobodys") == {()}


def test_as_sixteen_digits_for_pyroscope(sent: tuple[dict[str, bytes], list[Row]]) -> None:
    """The trace id stays out: a server that does not know the label makes a series of each."""
    profile = sent[0]["pyroscope"]
    assert spans_of(profile, "first_request") == {(("span_id", "fedcba9876543210"),)}
    assert spans_of(profile, "second_request") == {(("span_id", "00000000000000ab"),)}
    assert spans_of(profile, "nobodys") == {()}


def test_as_links_for_otlp(sent: tuple[dict[str, bytes], list[Row]]) -> None:
    request = check_request(sent[0]["otlp"])
    for samples in request.profiles.values():
        links = {
            (function, sample.link)
            for sample in samples
            for function in ("first_request", "second_request", "nobodys")
            if any(frame[0] == function for frame in sample.frames)
        }
        assert links == {
            ("first_request", ("00001111222233338444555566667777", "fedcba9876543210")),
            ("second_request", ("80000000000000000000000000000001", "00000000000000ab")),
            ("nobodys", ()),
        }
    assert len(request.message.dictionary.link_table) == 3
    labels = {sample.labels for samples in request.profiles.values() for sample in samples}
    assert all("span" not in key for shown in labels for key, _ in shown)


def test_sums_are_those_of_the_rows(sent: tuple[dict[str, bytes], list[Row]]) -> None:
    """Whatever the naming makes of the ids."""
    profiles, rows = sent
    total = sum(row.cpu_ns for row in rows)
    assert {row.trace for row in rows} == {ONE, TWO, None}
    for name in ("blackfire", "go", "pyroscope"):
        assert check_bytes(profiles[name]).total() == total
    assert check_request(profiles["otlp"]).total("process_cpu", "cpu") == total


def test_a_naming_without_ids_merges() -> None:
    rows = [
        Row((("f", "f.py", 1, 1),), (), "", samples=1, cpu_ns=10, trace=trace)
        for trace in (None, ONE, TWO)
    ]
    plain = naming.go(MEASURED)._replace(spans=naming.SpanLabels())
    encoded = encode_profile(
        rows, plain.shapes[0], plain, start_ns=1, end_ns=2, mapping_file="python"
    )
    assert encoded is not None
    (sample,) = check_bytes(encoded).samples
    assert sample.values == [3, 30]


@pytest.mark.parametrize("name", NAMINGS)
def test_both_encoders_agree(name: str) -> None:
    """Equal rows, equal bytes: the reference in Python, and the extension's."""
    native: Any = pytest.importorskip("conprof_core._native")
    if not hasattr(native, "take_window"):
        pytest.skip("the C extension is not part of this installation")
    from conprof_core._engine.native import NativeWindow

    native.start(
        rate_hz=1000,
        period_s=3600.0,
        max_stacks=1000,
        tick=lambda: 3600.0,
        on_terminate=lambda: None,
        on_trouble=lambda: None,
        wall_rate_hz=0,
        blocked_ms=100,
    )
    try:
        for work, ids in ((first_request, ONE), (second_request, TWO), (nobodys, None)):
            cell = native.LabelCell(native.intern_labels({"http.route": "/r"}))
            if ids is not None:
                cell.set_trace(ids[0] >> 64, ids[0] & (1 << 64) - 1, ids[1])
            token = native.context_var.set(cell)
            work()
            native.context_var.reset(token)
    finally:
        native.stop()
    window = NativeWindow(native.take_window(), {})
    assert {row.trace for row in window.rows()} >= {ONE, TWO, None}
    names: Naming = NAMINGS[name]
    span = {"start_ns": window.start_ns, "end_ns": window.end_ns}
    if names.otlp is not None:
        request = {"resource": b"", "version": "1", "profile_id": bytes(range(16))}
        ours = window.encode_otlp(names, **request)  # type: ignore[arg-type]
        reference = encode_request(window.rows(), names, **span, **request)  # type: ignore[arg-type]
        assert ours == reference
        return
    shape = names.shapes[0]
    pprof = window.encode_pprof(shape, names, mapping_file="python")
    known = encode_profile(window.rows(), shape, names, **span, mapping_file="python")
    assert pprof is not None
    assert known is not None
    one, other = check_bytes(pprof), check_bytes(known)
    assert [
        (sample.functions, sample.values, sample.labels, sample.numbers) for sample in one.samples
    ] == [
        (sample.functions, sample.values, sample.labels, sample.numbers) for sample in other.samples
    ]


def test_a_form_that_does_not_exist_is_refused() -> None:
    native: Any = pytest.importorskip("conprof_core._native")
    if not hasattr(native, "take_window"):
        pytest.skip("the C extension is not part of this installation")
    from conprof_core._engine.native import NativeWindow

    exporter = MemoryExporter(NAMINGS["go"])
    profiler = Profiler(cpu_profile_rate=1000, exporters=[exporter], engine="native")
    profiler.start()
    burn(0.02)
    window = NativeWindow(native.take_window(), {})
    profiler.stop()
    for spans in (
        naming.SpanLabels("octal", ("span id",)),
        naming.SpanLabels("hex", ("a", "b", "c", "d", "e")),
    ):
        names = NAMINGS["go"]._replace(spans=spans)
        with pytest.raises(ValueError, match="form"):
            window.encode_pprof(names.shapes[0], names, mapping_file="python")
