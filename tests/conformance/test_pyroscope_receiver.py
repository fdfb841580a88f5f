"""What Pyroscope gives out of a window, by query: a real one where named, and always the fake.

``CONPROF_PYROSCOPE`` names the binary of a Pyroscope. The fake holds the rules of the real server
that ``tests/core/test_fake_pyroscope.py`` shows, and answers the same requests.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fake_pyroscope import FakePyroscope
from support.pprof_reader import parse

from conformance.receivers import binary, free_port, running
from conformance.windows import values
from conprof_core import Config, Profiler, labels, testing
from conprof_core._engine import Row
from conprof_core._engine._table import PortableWindow
from conprof_core._process import Process
from conprof_core._window import Window
from conprof_core.exporters import Destination, EncodedWindow, Exporter, Verdict, create
from conprof_core.exporters.naming import Measured

EVERYTHING = Measured(100, ("cpu", "heap", "wall", "tasks"))
ROUTES = ("/r/0", "/r/3", "/r/6")


@pytest.fixture(params=["fake, storage 1", "fake, storage 2", "real"])
def pyroscope(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """The port of a server that holds nothing yet."""
    if request.param != "real":
        server = FakePyroscope(storage=int(request.param[-1]))
        yield server.port
        server.close()
        return
    port, grpc, gossip = free_port(), free_port(), free_port()
    command = [
        binary("pyroscope"),
        "-target=all",
        "-self-profiling.disable-push=true",
        "-usage-stats.enabled=false",
        "-server.http-listen-address=127.0.0.1",
        f"-server.http-listen-port={port}",
        "-server.grpc-listen-address=127.0.0.1",
        f"-server.grpc-listen-port={grpc}",
        "-memberlist.bind-addr=127.0.0.1",
        f"-memberlist.bind-port={gossip}",
    ]
    with running(command, tmp_path, port):
        deadline = time.monotonic() + 60
        while not is_ready(port):
            assert time.monotonic() < deadline, "it never became ready"
            time.sleep(0.2)
        yield port


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def select(port: int, profile_type: str, selector: str) -> Counter[str]:
    """Return leaf function → value, of the last hour."""
    now_ms = int(time.time() * 1000)
    question = {
        "profileTypeID": profile_type,
        "labelSelector": selector,
        "start": str(now_ms - 3_600_000),
        "end": str(now_ms + 60_000),
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/querier.v1.QuerierService/SelectMergeProfile",
        json.dumps(question).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        profile = json.load(answer)
    texts = profile.get("stringTable", [])
    names = {one["id"]: texts[int(one["name"])] for one in profile.get("function", [])}
    leaves = {one["id"]: names[one["line"][0]["functionId"]] for one in profile.get("location", [])}
    found = Counter[str]()
    for sample in profile.get("sample", []):
        found[leaves[sample["locationId"][0]]] += int(sample["value"][0])
    return found


def until(port: int, profile_type: str, selector: str, expected: Counter[str]) -> None:
    """Wait for what was pushed: a server may show it a little later."""
    deadline = time.monotonic() + 20
    while True:
        found = select(port, profile_type, selector)
        if found == expected:
            return
        assert time.monotonic() < deadline, f"{profile_type} {selector}: {found}, not {expected}"
        time.sleep(0.5)


def rows() -> list[Row]:
    """Rows of all types with stacks and labels that repeat, and frames without a file."""
    made = []
    for n in range(300):
        frames = [
            (f"f{level}_{n % (level + 2)}", f"/srv/é/{level}.py", n % 50 + 1, level + 1)
            for level in range(1 + n % 20)
        ]
        frames.insert(0, (f"leaf_{n % 19}", "/srv/leaf.py", 1, 1))
        frames.append(("[lost]", "", 0, 0) if n % 17 == 0 else ("<module>", "/srv/m.py", 1, 1))
        found = (("http.route", f"/r/{n % 7}"), ("http.response.status_class", f"{n % 4 + 2}xx"))
        made.append(Row(tuple(frames), found, f"worker-{n % 3}", **values(n)))
    return made


def window(exporter: Exporter, taken: list[Row], age_s: float) -> EncodedWindow:
    engine = [row._replace(tasks=0) for row in taken]
    portable = PortableWindow(engine, time.time_ns() - int(age_s * 1e9), {}, time.time_ns())
    process = Process(Config(application_name="shop", labels={"tier": "web"}))
    tasks = [Row(row.frames, row.labels, "", tasks=row.tasks) for row in taken if row.tasks]
    made = Window(
        portable, process, engine="test", sequence=0, lost_windows=0, requests={}, tasks=tasks
    )
    return made.encode(exporter.naming)


def expected(column: str, **wanted: str) -> Counter[str]:
    found = Counter[str]()
    for row in rows():
        if all(dict(row.labels).get(name.replace("_", ".")) == v for name, v in wanted.items()):
            found[row.frames[0][0]] += getattr(row, column)
    return +found


def test_every_type_is_given_out_as_it_was_pushed(pyroscope: int) -> None:
    exporter = create(Destination(f"pyroscope+http://127.0.0.1:{pyroscope}", EVERYTHING, ""))
    windows = (50.0, 5.0)
    for age_s in windows:
        outcome = exporter.export(window(exporter, rows(), age_s), 20)
        assert outcome.verdict is Verdict.DELIVERED, outcome
    compared = 0
    for shape in exporter.naming.shapes:
        for kind, unit, column in shape.sample_types:
            name = ":".join((shape.name, kind, unit, *shape.period_type))
            for route in ROUTES:
                selector = f'{{service_name="shop",tier="web",http_route="{route}"}}'
                sent = expected(column, http_route=route)
                assert sent, "the premise"
                twice = Counter({leaf: len(windows) * value for leaf, value in sent.items()})
                until(pyroscope, name, selector, twice)
                compared += len(twice)
            assert not select(pyroscope, name, '{service_name="shop",http_route="/none"}')
    assert compared > 100


def test_otlp_is_given_out_as_the_page_says(pyroscope: int) -> None:
    exporter = create(Destination(f"otlp+http://127.0.0.1:{pyroscope}", EVERYTHING, ""))
    outcome = exporter.export(window(exporter, rows(), 5), 20)
    assert outcome.verdict is Verdict.DELIVERED, outcome
    for shape in exporter.naming.shapes:
        for kind, unit, column in shape.sample_types:
            series, factor, query = shape.period_type[0], 1, kind
            if (kind, shape.name) == ("samples", "process_cpu"):
                series, factor, query, unit = "process_cpu", shape.period, "cpu", "nanoseconds"
            name = ":".join((series, query, unit, *shape.period_type))
            for route in ROUTES:
                sent = expected(column, http_route=route)
                selector = f'{{service_name="shop",tier="web","http.route"="{route}"}}'
                times = Counter({leaf: factor * value for leaf, value in sent.items()})
                until(pyroscope, name, selector, times)


def test_what_a_profiler_saw_is_given_out(pyroscope: int) -> None:
    exporter = create(Destination(f"pyroscope+http://127.0.0.1:{pyroscope}", Measured(), ""))
    memory = testing.MemoryExporter(exporter.naming)
    profiler = Profiler(application_name="shop", exporters=[exporter, memory], upload_timeout=20)
    profiler.start()
    with labels({"http.route": "/burn"}):
        sum(i * i for i in range(3_000_000))
    assert profiler.flush(20)
    stats = profiler.stats()
    profiler.stop()
    assert (stats["refused"], stats["dropped"]) == (0, 0)
    profiles = [parse(profile.pprof_gz) for one in memory.windows for profile in one.profiles]
    sent = sum(profile.by_label("http_route", "cpu").get("/burn", 0) for profile in profiles)
    assert sent, "the premise: there were samples"
    name = "process_cpu:cpu:nanoseconds:cpu:nanoseconds"
    found = select(pyroscope, name, '{service_name="shop",http_route="/burn"}')
    assert found.total() == sent


@pytest.mark.parametrize("age_s", [3700, -700], ids=["too old", "too new"])
def test_what_is_outside_of_the_time_a_server_takes_is_refused(
    pyroscope: int, age_s: float
) -> None:
    exporter = create(Destination(f"pyroscope+http://127.0.0.1:{pyroscope}", Measured(), ""))
    outcome = exporter.export(window(exporter, rows(), age_s), 20)
    assert outcome.verdict is Verdict.REFUSED
    assert "ingestion window" in outcome.detail
