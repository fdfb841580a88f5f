"""The Pyroscope exporter, against a server that refuses what the real one refuses."""

from __future__ import annotations

import base64
import os
import time
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from support.check_valid import check_bytes
from support.fake_pyroscope import FakePyroscope, PushedSeries, read_push
from support.pprof_reader import Profile

from conprof_core import Config, ConfigError, Profiler, _native, labels, testing
from conprof_core._engine import Row
from conprof_core._engine._table import PortableWindow
from conprof_core._pprof import encode_profile
from conprof_core._process import Process
from conprof_core._window import Window
from conprof_core.exporters import (
    Destination,
    EncodedProfile,
    EncodedWindow,
    Verdict,
    create,
    naming,
)
from conprof_core.exporters.naming import Measured
from conprof_core.exporters.pyroscope import encode_push, target_of

NEEDS_NATIVE = pytest.mark.skipif(
    os.environ.get("CONPROF_ENGINE") == "portable" or not hasattr(_native, "self_test"),
    reason="the native engine is not here, or another one was demanded",
)
EVERYTHING = Measured(100, ("cpu", "heap", "wall", "tasks"))
FRAMES = (("f", "/srv/f.py", 3, 1),)


class Series(NamedTuple):
    """One series that a server took, read and checked."""

    labels: dict[str, str]
    profiles: list[Profile]
    ids: list[str]


def read(series: list[PushedSeries]) -> list[Series]:
    for one in series:
        assert len(dict(one.labels)) == len(one.labels)
        assert all(uuid.UUID(identity).version == 4 for identity, _ in one.profiles)
    return [
        Series(
            dict(one.labels),
            [check_bytes(data) for _, data in one.profiles],
            [identity for identity, _ in one.profiles],
        )
        for one in series
    ]


def parse(body: bytes) -> list[Series]:
    return read(read_push(body))


@pytest.fixture
def server() -> Iterator[FakePyroscope]:
    running = FakePyroscope()
    yield running
    running.close()


def window(
    rows: list[Row],
    measured: Measured = EVERYTHING,
    names: naming.Naming | None = None,
    **options: Any,
) -> EncodedWindow:
    taken = PortableWindow(rows, time.time_ns() - 45_000_000_000, {"truncated": 1}, time.time_ns())
    config = Config(application_name="shop", **options)
    made = Window(
        taken,
        Process(config),
        engine="test",
        sequence=3,
        lost_windows=0,
        requests={},
        tasks=[row for row in rows if row.tasks],
    )
    return made.encode(names or naming.pyroscope(measured))


ROWS = [
    Row(FRAMES, (("http.route", "/x"), ("http.response.status_class", "2xx")), "a", 2, 20),
    Row(FRAMES, (("http.route", "/x"), ("http.response.status_class", "5xx")), "b", 1, 10),
    Row(FRAMES, (), "", inuse_bytes=5, inuse_objects=1, alloc_bytes=9, alloc_objects=2),
    Row(FRAMES, (), "", wall_ns=7, wall_samples=1, tasks=4),
]


def test_one_series_for_each_type_under_the_names_of_the_sdks(server: FakePyroscope) -> None:
    exporter = create(
        Destination(
            f"pyroscope+http://me:se%40cret@127.0.0.1:{server.port}/pyro/?tenant=acme",
            EVERYTHING,
            "",
        )
    )
    assert "cret" not in exporter.name
    outcome = exporter.export(window(ROWS, labels={"tier": "web"}), 10)
    assert outcome.verdict is Verdict.DELIVERED, outcome
    (path, headers) = server.requests[0]
    assert path == "/pyro/push.v1.PusherService/Push"
    assert headers["X-Scope-OrgID"] == "acme"
    assert headers["Authorization"] == "Basic " + base64.b64encode(b"me:se@cret").decode()
    series = {one.labels["__name__"]: one for one in read(server.taken[0])}
    assert list(series) == ["process_cpu", "memory", "wall", "goroutine"]
    for one in series.values():
        assert one.labels["service_name"] == "shop"
        assert one.labels["tier"] == "web"
        assert one.labels["__delta__"] == "false"
        assert not {"process_id", "runtime-id", "profile_seq"} & set(one.labels)
    cpu = series["process_cpu"].profiles[0]
    assert cpu.period_type == ("cpu", "nanoseconds")
    assert cpu.total("cpu") == 30
    assert {tuple(sample.labels.items()) for sample in cpu.samples} == {(("http_route", "/x"),)}
    assert series["memory"].profiles[0].total("inuse_space") == 5
    assert series["wall"].profiles[0].total("wall") == 7
    assert series["goroutine"].profiles[0].total("goroutine") == 4


@pytest.mark.parametrize("engine", [pytest.param("native", marks=NEEDS_NATIVE), "portable"])
def test_a_real_window(server: FakePyroscope, engine: str) -> None:
    exporter = create(Destination(f"pyroscope+http://127.0.0.1:{server.port}", Measured(), ""))
    profiler = Profiler(application_name="shop", engine=engine, exporters=[exporter])
    profiler.start()
    with labels({"http.route": "/burn"}):
        sum(i * i for i in range(3_000_000))
    profiler.stop()
    (series,) = read(server.taken[-1])
    routes = {sample.labels.get("http_route") for sample in series.profiles[0].samples}
    assert "/burn" in routes
    assert not any("thread" in sample.labels for sample in series.profiles[0].samples)


def test_label_sets_are_bounded_and_the_rest_is_visible() -> None:
    rows = [Row(FRAMES, (("tenant", str(n)),), "", 1, 1) for n in range(600)]
    (series,) = parse(encode_push(window(rows, Measured())))
    (profile,) = series.profiles
    kept = {tuple(sample.labels.items()) for sample in profile.samples}
    assert len(kept) == 501
    over = [sample for sample in profile.samples if "conprof_overflow" in sample.labels]
    assert sum(sample.values[1] for sample in over) == 100
    assert profile.total("cpu") == 600


@NEEDS_NATIVE
def test_both_encoders_bound_and_split_alike() -> None:
    names = naming.pyroscope()._replace(max_label_sets=3, max_samples=4)
    exporter, rows = testing.MemoryExporter(names), list[Row]()
    profiler = Profiler(engine="native", exporters=[exporter])
    profiler.observe(rows.extend)
    profiler.start()
    for tenant in range(6):
        with labels(tenant=tenant):
            for size in range(3):
                sorted(str(i) for i in range(200_000 + size))
    profiler.stop()
    (exported,) = exporter.windows
    native = [check_bytes(profile.pprof_gz) for profile in exported.profiles]
    python: list[Profile] = []
    while True:
        data = encode_profile(
            rows,
            names.shapes[0],
            names,
            start_ns=exported.start_ns,
            end_ns=exported.end_ns,
            mapping_file="python",
            first_sample=4 * len(python),
        )
        if data is None:
            break
        python.append(check_bytes(data))
    assert len(native) > 1, "the premise: it was split"
    assert [content(one) for one in native] == [content(one) for one in python]
    sets = {labels for one in native for _, labels, _ in content(one)}
    assert (("conprof_overflow", "labels"),) in sets
    assert len(sets) == 4


def content(profile: Profile) -> list[tuple[Any, ...]]:
    return [
        (
            tuple((frame.function, frame.line) for frame in sample.frames),
            tuple(sorted(sample.labels.items())),
            tuple(sample.values),
        )
        for sample in profile.samples
    ]


def many(count: int) -> list[Row]:
    return [
        Row((("f", "/srv/f.py", n + 1, 1),), (("tenant", str(n % 7)),), "", 1, n)
        for n in range(count)
    ]


def test_a_large_window_is_split_and_nothing_is_lost(server: FakePyroscope) -> None:
    sent = window(many(20_000), Measured())
    parts = parse(encode_push(sent))
    assert [len(part.profiles[0].samples) for part in parts] == [8000, 8000, 4000]
    assert len({identity for part in parts for identity in part.ids}) == 3
    # Of equal time and labels the server would give out one.
    assert len({part.profiles[0].time_nanos // 1_000_000 for part in parts}) == 3
    exporter = create(Destination(f"pyroscope+http://127.0.0.1:{server.port}", Measured(), ""))
    assert exporter.export(sent, 10).verdict is Verdict.DELIVERED
    assert total(server) == sum(range(20_000))


def total(server: FakePyroscope) -> int:
    now_ms = time.time_ns() // 1_000_000
    kind = "process_cpu:cpu:nanoseconds:cpu:nanoseconds"
    return server.select(kind, '{service_name="shop"}', now_ms - 3_600_000, now_ms).total()


def deep(count: int) -> list[Row]:
    frames = [(f"function_{n}", f"/srv/shop/file_{n % 90}.py", n + 1, 1) for n in range(3_000)]
    return [
        Row(tuple(frames[(n + k * (1 + n // 3_000)) % 3_000] for k in range(256)), (), "", 1, n)
        for n in range(count)
    ]


def size(profile: EncodedProfile) -> int:
    return int.from_bytes(profile.pprof_gz[-4:], "little")


def test_what_is_more_than_a_server_ever_takes_at_once_is_parted(server: FakePyroscope) -> None:
    rows, names = deep(5_000), naming.pyroscope(Measured())
    server.storage = 2  # where what is pushed twice counts twice
    url = f"pyroscope+http://127.0.0.1:{server.port}"
    exporter = create(Destination(url, Measured(), ""))
    whole = window(rows, Measured(), names=names._replace(max_bytes=0))
    assert len(whole.profiles) == 1
    assert size(whole.profiles[0]) > 2 << 20
    assert exporter.export(whole, 10).verdict is Verdict.RETRY, "the premise: it never fits"
    sent = window(rows, Measured())
    assert all(size(profile) < 1_500_000 for profile in sent.profiles)
    server.rate_bytes = 0
    outcome = exporter.export(sent, 10)
    assert outcome.verdict is Verdict.RETRY, "the premise: together they are too much"
    assert "HTTP 429" in outcome.detail
    assert 0 < total(server) < sum(range(5_000)), "the premise: a part was taken"
    server.limited = False
    assert exporter.export(sent, 10).verdict is Verdict.DELIVERED
    assert total(server) == sum(range(5_000)), "all of it, and nothing twice"
    assert exporter.export(sent, 10).verdict is Verdict.DELIVERED
    assert total(server) == 2 * sum(range(5_000)), "the premise: it would count twice"


def test_labels_of_samples_have_room_beside_those_of_the_process(server: FakePyroscope) -> None:
    process = {f"p{n}": "v" for n in range(60)}
    own = tuple((f"s{n}", "v") for n in range(10))
    exporter = create(Destination(f"pyroscope+http://127.0.0.1:{server.port}", Measured(), ""))
    sent = window([Row(FRAMES, own, "", 1, 5)], Measured(), labels=process)
    assert exporter.export(sent, 10).verdict is Verdict.DELIVERED
    assert len(server.stored[0].labels) == 29, "30 without __delta__"
    more = window([Row(FRAMES, (*own, ("one", "more")), "", 1, 5)], Measured(), labels=process)
    outcome = exporter.export(more, 10)
    assert outcome.verdict is Verdict.REFUSED
    assert "has 31 label names; limit 30" in outcome.detail


def test_allocations_are_those_of_the_window(server: FakePyroscope) -> None:
    rows = [Row(FRAMES, (("http.route", "/x"),), "", alloc_bytes=900, alloc_objects=9)]
    exporter = create(Destination(f"pyroscope+http://127.0.0.1:{server.port}", EVERYTHING, ""))
    now_ms = time.time_ns() // 1_000_000
    for _ in range(3):
        assert exporter.export(window(rows), 10).verdict is Verdict.DELIVERED
        time.sleep(0.002)
    kind = "memory:alloc_space:bytes:space:bytes"
    found = server.select(kind, '{http_route="/x"}', now_ms - 60_000, now_ms)
    assert found.total() == 3 * 900


@pytest.mark.parametrize(
    ("status", "verdict", "words"),
    [
        (400, Verdict.REFUSED, "HTTP 400 Bad Request: invalid_argument"),
        (401, Verdict.REFUSED, "write user:password@ before the host"),
        (404, Verdict.REFUSED, "no Pyroscope"),
        (413, Verdict.REFUSED, "HTTP 413"),
        (429, Verdict.RETRY, "HTTP 429"),
        (500, Verdict.RETRY, "HTTP 500"),
        (503, Verdict.RETRY, "HTTP 503"),
    ],
)
def test_answers(server: FakePyroscope, status: int, verdict: Verdict, words: str) -> None:
    server.status, server.answer, server.headers = status, b"invalid_argument", {"Retry-After": "7"}
    exporter = create(Destination(f"pyroscope+http://127.0.0.1:{server.port}", Measured(), ""))
    outcome = exporter.export(window(ROWS[:1], Measured()), 10)
    assert outcome.verdict is verdict
    assert words in outcome.detail
    assert outcome.retry_after_s == (7 if verdict is Verdict.RETRY else None)


def test_a_server_that_is_away() -> None:
    exporter = create(Destination("pyroscope+http://127.0.0.1:9", Measured(), ""))
    assert exporter.export(window(ROWS[:1], Measured()), 2).verdict is Verdict.RETRY


@pytest.mark.parametrize(
    "url",
    [
        "pyroscope+http://",
        "pyroscope+https:///prefix",
        "pyroscope+http://host:port",
        "pyroscope+http://host:99999",
        "pyroscope+http://host/?tenent=typo",
        "pyroscope+http://user:hidden@host#fragment",
        "pyroscope+ftp://host",
    ],
)
def test_urls_that_say_nothing_useful(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Config(export_to=url)
    assert "hidden" not in str(raised.value)


def test_what_a_url_says() -> None:
    target = target_of("pyroscope+https://u:p%2F@[::1]:4040/a/b?tenant=t")
    assert target.url == "https://[::1]:4040/a/b/push.v1.PusherService/Push"
    assert (target.auth, target.tenant) == (("u", "p/"), "t")
    assert target.shown == "https://[::1]:4040/a/b"


def test_hostile_labels_of_the_process() -> None:
    more = {f"k{n}": "v" for n in range(60)} | {"__name__": "other", "long": "é" * 5000}
    (series,) = parse(encode_push(window(ROWS[:1], Measured(), labels=more)))
    assert series.labels["__name__"] == "process_cpu"
