"""A target under way, and requests to it."""

from __future__ import annotations

import http.client
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from support.check_scrape import Response
from support.process import Running, start_script

TARGET = Path(__file__).with_name("target.py")
TIMEOUT_S = 60.0


class Target:
    """A process that serves, and is read."""

    def __init__(self, process: Running, port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def get(
        self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET"
    ) -> Response:
        """Make one request over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, headers=dict(headers or {}))
            answer = connection.getresponse()
            named = {name.lower(): value for name, value in answer.getheaders()}
            return Response(answer.status, named, answer.read())
        finally:
            connection.close()

    def pprof(self, path: str, headers: Mapping[str, str] | None = None) -> Response:
        """Ask for something below ``/debug/pprof/``."""
        return self.get(f"/debug/pprof/{path}", headers)

    def stop(self) -> int:
        """End it; returns the CPU time it used in all, in nanoseconds."""
        assert self.get("/stop").status == 200
        line = self.process.wait_for_line("CPU")
        assert self.process.finish().returncode == 0, self.process.stderr
        return int(line.split()[1])


@contextmanager
def serving(kind: str, **environment: str) -> Iterator[Target]:
    """Start a target that is pulled only, unless the environment says more."""
    given = {
        "CONPROF_PULL": "1",
        "CONPROF_EXPORT_TO": "none:",
        "CONPROF_PROFILE_TYPES": "cpu,heap,wall",
        "CONPROF_HEAP_SAMPLE_BYTES": "16384",
        **environment,
    }
    with start_script(TARGET, kind, env=given) as process:
        port = int(process.wait_for_line("READY").split()[1])
        target = Target(process, port)
        assert target.get("/burn/1").status == 200, process.stderr
        yield target
