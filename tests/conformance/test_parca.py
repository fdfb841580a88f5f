"""What Parca shows, by query: of OTLP that it is sent, and of profiles that it scrapes.

``CONPROF_PARCA`` names the binary of a Parca.
"""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.pprof_reader import Profile, parse

from conformance.receivers import binary, free_port, running
from conformance.windows import exporter_of, rows, window

STORE = 'object_storage: {bucket: {type: "FILESYSTEM", config: {directory: "./data"}}}\n'


@contextmanager
def parca(directory: Path, configuration: str = "") -> Iterator[int]:
    """Run a Parca; gives its port, for HTTP and gRPC alike."""
    port = free_port()
    directory.joinpath("parca.yaml").write_text(STORE + configuration)
    command = [
        binary("parca"),
        "--config-path=parca.yaml",
        f"--http-address=127.0.0.1:{port}",
        # It would ask a public server for symbols.
        "--debuginfod-upstream-servers=http://127.0.0.1:9",
        "--debuginfo-cache-dir=cache",
    ]
    with running(command, directory, port):
        yield port


def shown(port: int, query: str) -> Counter[str]:
    """Return leaf function → value, as Parca gives it out for a query, of the last hour."""
    now = time.time()
    parameters = {
        "mode": "MODE_MERGE",
        "merge.query": query,
        "merge.start": stamp(now - 3600),
        "merge.end": stamp(now + 60),
        "reportType": "REPORT_TYPE_PPROF",
    }
    url = f"http://127.0.0.1:{port}/api/profiles/query?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=20) as answer:
        profile = parse(base64.b64decode(json.load(answer)["pprof"]))
    if not profile.samples:
        return Counter()
    return +Counter(profile.by_leaf(profile.sample_types[0].type))


def stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def test_otlp_is_shown_as_it_was_sent(tmp_path: Path) -> None:
    """Parca takes OTLP over gRPC only: the bytes of the exporter, by a client of the test."""
    binary("parca")
    grpc = pytest.importorskip("grpc")
    from opentelemetry.proto.collector.profiles.v1development import (
        profiles_service_pb2 as service,
    )
    from opentelemetry.proto.collector.profiles.v1development import (
        profiles_service_pb2_grpc as service_grpc,
    )

    exporter = exporter_of("otlp:")
    message = service.ExportProfilesServiceRequest()
    message.ParseFromString(gzip.decompress(window(exporter).profiles[0].pprof_gz))
    with parca(tmp_path) as port:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            service_grpc.ProfilesServiceStub(channel).Export(message, timeout=20)
        for shape in exporter.naming.shapes:
            for kind, unit, column in shape.sample_types:
                name = ":".join((shape.name, kind, unit, *shape.period_type, "delta"))
                expected = Counter[str]()
                for row in rows():
                    expected[dict(row.labels)["http.route"]] += getattr(row, column)
                # Parca gives out numbers of samples times the period.
                factor = shape.period if kind == "samples" else 1
                for route in ("/r/0", "/r/5"):
                    query = f'{name}{{service_name="shop",tier="web",http_route="{route}"}}'
                    assert shown(port, query).total() == factor * expected[route], query


class Between:
    """Stands between Parca and what it scrapes, and keeps what was answered.

    Attributes:
        is_open: whether requests are passed on; a closed one answers 503.
        profiles: path without the query → profiles that Parca got.
        failed: (path, status) of everything else.
    """

    def __init__(self, target_port: int) -> None:
        self.is_open = True
        self.profiles: dict[str, list[Profile]] = {}
        self.failed: list[tuple[str, int]] = []
        between = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if not between.is_open:
                    self.send_error(503)
                    return
                target = http.client.HTTPConnection("127.0.0.1", target_port, timeout=60)
                target.request("GET", self.path, headers={"User-Agent": "parca"})
                answer = target.getresponse()
                body = answer.read()
                target.close()
                self.send_response(answer.status)
                for name in ("Content-Type", "X-Go-Pprof"):
                    if answer.headers[name]:
                        self.send_header(name, answer.headers[name])
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                path = self.path.partition("?")[0]
                if answer.status == 200:
                    between.profiles.setdefault(path, []).append(parse(body))
                else:
                    between.failed.append((path, answer.status))

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def given(self, path: str, kind: str) -> Counter[str]:
        """Return leaf function → value, of all that Parca got."""
        found = Counter[str]()
        for profile in self.profiles.get(f"/debug/pprof/{path}", []):
            found.update(profile.by_leaf(kind))
        return +found

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


SCRAPE = """
scrape_configs:
  - job_name: shop
    scrape_interval: 2s
    scrape_timeout: 40s
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
    profiling_config:
      pprof_config:
        memory: {{enabled: true, path: /debug/pprof/heap}}
        goroutine: {{enabled: true, path: /debug/pprof/goroutine}}
        process_cpu: {{enabled: true, delta: true, path: /debug/pprof/profile}}
        wall: {{enabled: true, delta: true, path: /debug/pprof/wall}}
        mutex: {{enabled: false}}
        block: {{enabled: false}}
"""
ROUTE = "/burn/<int:milliseconds>"
SCRAPED = (
    # path, name in Parca, sample type, period type
    ("profile", "process_cpu:cpu:nanoseconds:cpu:nanoseconds:delta", "cpu"),
    ("wall", "wall:wall:nanoseconds:wall:nanoseconds:delta", "wall"),
    ("heap", "memory:alloc_space:bytes:space:bytes", "alloc_space"),
    ("heap", "memory:alloc_objects:count:space:bytes", "alloc_objects"),
    ("heap", "memory:inuse_space:bytes:space:bytes", "inuse_space"),
    ("goroutine", "goroutine:goroutine:count:goroutine:count", "goroutine"),
)
CPU = SCRAPED[:1]


def test_what_is_scraped_is_shown_as_it_was_given(tmp_path: Path) -> None:
    binary("parca")
    serving = pytest.importorskip("pull.serving").serving
    with serving("flask") as target:
        between = Between(target.port)
        try:
            with parca(tmp_path, SCRAPE.format(port=between.port)) as port:
                deadline = time.monotonic() + 90
                while any("burn" not in between.given(path, kind) for path, _, kind in CPU):
                    assert time.monotonic() < deadline, (between.profiles.keys(), between.failed)
                    assert target.get("/burn/200").status == 200
                between.is_open = False
                time.sleep(5)  # what is under way is given out, and stored
                assert not between.failed
                for path, name, kind in SCRAPED:
                    given = between.given(path, kind)
                    assert given, "the premise"
                    wait_for(port, f'{name}{{job="shop"}}', given)
                # Labels of the samples of a pprof Parca reads and does not keep (July 2026).
                (name,) = (name for _, name, _ in CPU)
                assert not shown(port, f'{name}{{job="shop",http_route="{ROUTE}"}}')
        finally:
            between.close()


def wait_for(port: int, query: str, given: Counter[str]) -> None:
    """Wait until that is shown: what is stored is not seen at once."""
    deadline = time.monotonic() + 30
    while True:
        try:
            found = shown(port, query)
        except urllib.error.HTTPError as error:
            found = Counter({f"HTTP {error.code}": 1})
        if found == given:
            return
        assert time.monotonic() < deadline, f"{query}: {found - given}, and not {given - found}"
        time.sleep(1)
