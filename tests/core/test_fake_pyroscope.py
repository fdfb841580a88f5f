"""The fake Pyroscope is as strict as it says: what the real server refuses, and what it drops."""

from __future__ import annotations

import gzip
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.fake_pyroscope import STATUS, FakePyroscope, RefusedError

from conprof_core._engine import Row
from conprof_core._pprof import encode_profile
from conprof_core._wire import delimited
from conprof_core.exporters import naming

SHAPES = {shape.name: shape for shape in naming.go(naming.Measured(100, ("cpu", "heap"))).shapes}
GOOD = {"__name__": "process_cpu", "service_name": "shop"}
ONE = [Row((("f", "/srv/f.py", 3, 1),), (("http_route", "/x"),), "", 2, 20)]
NOW, MEBI = time.time_ns, 1 << 20


@pytest.fixture
def server() -> Iterator[FakePyroscope]:
    running = FakePyroscope()
    yield running
    running.close()


def pprof(rows: list[Row], shape: naming.Shape = SHAPES["cpu"], age_s: float = 5.0) -> bytes:
    start_ns = NOW() - int(age_s * 1e9)
    data = encode_profile(
        rows,
        shape,
        naming.Naming((shape,)),
        start_ns=start_ns,
        end_ns=start_ns + 1,
        mapping_file="python",
    )
    assert data is not None
    return data


def push(labels: dict[str, str] | list[tuple[str, str]], *profiles: bytes) -> bytes:
    pairs = labels.items() if isinstance(labels, dict) else labels
    parts = [
        delimited(b"\x0a", delimited(b"\x0a", k.encode()) + delimited(b"\x12", v.encode()))
        for k, v in pairs
    ]
    parts += [
        delimited(b"\x12", delimited(b"\x0a", data) + delimited(b"\x12", b"an-id"))
        for data in profiles
    ]
    return delimited(b"\x0a", b"".join(parts))


def labelled(count: int, **more: str) -> Row:
    own = (*((f"s{n}", "v") for n in range(count)), *more.items())
    return Row((("f", "/srv/f.py", 3, 1),), own, "", 1, 10)


def wide(count: int) -> list[Row]:
    return [Row((("f", "/srv/f.py", n + 1, 1),), (), "", 1, 1) for n in range(count)]


def large(size: int) -> list[Row]:
    return [Row(((f"{n:01000d}", "", 0, 0),), (), "", 1, 1) for n in range(size // 1000)]


DASHED = SHAPES["cpu"]._replace(sample_types=(("cpu-time", "nanoseconds", "cpu_ns"),))

REFUSED: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "nothing": (lambda: b"", "invalid_argument", "no profiles received"),
    "no name": (
        lambda: push({"service_name": "shop"}, pprof(ONE)),
        "invalid_argument",
        "metric name",
    ),
    "a dash": (
        lambda: push(GOOD, pprof(ONE, DASHED)),
        "invalid_argument",
        "sample type contains -",
    ),
    "too old": (lambda: push(GOOD, pprof(ONE, age_s=3601)), "invalid_argument", "ingestion window"),
    "too new": (lambda: push(GOOD, pprof(ONE, age_s=-601)), "invalid_argument", "ingestion window"),
    "a label twice": (
        lambda: push([*GOOD.items(), ("a", "1"), ("a", "2")], pprof(ONE)),
        "invalid_argument",
        "duplicate label name",
    ),
    "31 names": (
        lambda: push(GOOD, pprof([labelled(29)])),
        "invalid_argument",
        "has 31 label names; limit 30",
    ),
    "101 labels of a sample": (
        lambda: push(GOOD, pprof([labelled(101)])),
        "invalid_argument",
        "exceeds the sample labels limit",
    ),
    "a long value": (
        lambda: push(GOOD | {"a": "x" * 2049}, pprof(ONE)),
        "invalid_argument",
        "label value too long",
    ),
    "a long name": (
        lambda: push(GOOD | {"a" * 1025: "x"}, pprof(ONE)),
        "invalid_argument",
        "label name too long",
    ),
    "16 001 samples": (
        lambda: push(GOOD, pprof(wide(16_001))),
        "invalid_argument",
        "samples count limit",
    ),
    "more than the bucket": (
        lambda: push(GOOD, pprof(large(2 * MEBI))),
        "resource_exhausted",
        "rate limit",
    ),
    "4 MiB": (
        lambda: push(GOOD, pprof(large(4 * MEBI))),
        "invalid_argument",
        "payload size exceeds limit",
    ),
    "a broken profile": (lambda: push(GOOD, pprof(ONE)[:-3]), "unknown", "cut off"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(server: FakePyroscope, name: str) -> None:
    make, code, words = REFUSED[name]
    body = make()
    with pytest.raises(RefusedError, match=words) as raised:
        server.push(body)
    assert raised.value.code == code
    assert not server.stored


@pytest.mark.parametrize(
    ("labels", "rows", "age_s"),
    [
        (GOOD, ONE, 5),
        ({"__name__": "process_cpu"}, ONE, 5),
        (GOOD, ONE, 3500),
        (GOOD, ONE, -500),
        (GOOD, [labelled(28)], 5),
        (GOOD, wide(16_000), 5),
        (GOOD, large(2 * MEBI - 100_000), 5),
    ],
    ids=["good", "no service", "old", "new", "30 names", "16 000 samples", "nearly 2 MiB"],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_what_is_taken(
    server: FakePyroscope,
    labels: dict[str, str],
    rows: list[Row],
    age_s: float,
    pack: Callable[[bytes], bytes],
) -> None:
    server.push(push(labels, pack(pprof(rows, age_s=age_s))))
    assert {one.profile_type for one in server.stored} == {
        "process_cpu:samples:count:cpu:nanoseconds",
        "process_cpu:cpu:nanoseconds:cpu:nanoseconds",
    }


def post(server: FakePyroscope, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_what_a_client_hears(server: FakePyroscope) -> None:
    path, kind = "/push.v1.PusherService/Push", {"Content-Type": "application/proto"}
    assert post(server, path, push(GOOD, pprof(ONE)), **kind) == (200, b"")
    status, said = post(server, path, push(GOOD, pprof(ONE, DASHED)), **kind)
    assert (status, json.loads(said)["code"]) == (400, "invalid_argument")
    assert post(server, path, b"", **{"Content-Type": "text/plain"})[0] == 415
    assert post(server, "/push", b"", **kind)[0] == 404
    server.tenants = True
    assert post(server, path, push(GOOD, pprof(ONE)), **kind)[0] == STATUS["unauthenticated"]
    assert post(server, path, push(GOOD, pprof(ONE)), **kind, **{"X-Scope-OrgID": "a"})[0] == 200


def test_of_a_request_the_series_in_order_are_kept(server: FakePyroscope) -> None:
    with pytest.raises(RefusedError, match="push series with index 1 and id an-id failed"):
        server.push(push(GOOD, pprof(ONE)) + push(GOOD, pprof(ONE, DASHED)))
    assert server.stored
    assert not server.taken


def test_a_span_makes_no_series(server: FakePyroscope) -> None:
    spans = [labelled(1, span_id=f"{n:016x}") for n in range(5)]
    server.push(push(GOOD, pprof(spans)))
    (cpu,) = [one for one in server.stored if ":cpu:nanoseconds:" in one.profile_type]
    assert cpu.labels == GOOD | {"s0": "v"}
    assert cpu.spans == {f"{n:016x}": 10 for n in range(5)}


@pytest.mark.parametrize(("storage", "found"), [(1, [2]), (2, [5, 5, 7])])
def test_sums_of_allocations_become_differences(storage: int, found: list[int]) -> None:
    server = FakePyroscope(storage)
    try:
        row = ONE[0]._replace(samples=0, cpu_ns=0)
        for value in (5, 5, 7):
            data = pprof([row._replace(alloc_bytes=value)], SHAPES["heap"])
            server.push(push(GOOD | {"__name__": "memory"}, data))
        kept = [one.stacks.total() for one in server.stored if ":alloc_space:" in one.profile_type]
        assert kept == found
        data = pprof([row._replace(alloc_bytes=3)], SHAPES["heap"])
        server.push(push(GOOD | {"__name__": "memory", "__delta__": "false"}, data))
        assert server.stored[-1].stacks.total() == 3
        assert "__delta__" not in server.stored[-1].labels
    finally:
        server.close()


@pytest.mark.parametrize(("storage", "factor"), [(1, 1), (2, 2)])
def test_equal_time_and_labels_are_one_profile(storage: int, factor: int) -> None:
    server = FakePyroscope(storage)
    try:
        data = pprof(ONE)
        for _ in range(2):
            server.push(push(GOOD, data))
        server.push(push(GOOD | {"a": "b"}, data))
        kind, now = "process_cpu:cpu:nanoseconds:cpu:nanoseconds", NOW() // 1_000_000
        found = server.select(kind, '{service_name="shop"}', now - 60_000, now)
        assert found.total() == 20 * factor + 20
        assert server.select(kind, '{a="b",http_route="/x"}', now - 60_000, now).total() == 20
        assert server.select(kind, '{a="c"}', now - 60_000, now).total() == 0
    finally:
        server.close()
