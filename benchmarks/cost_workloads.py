"""The programs that ``cost.py`` runs side by side: endless units of equal work, a byte a unit.

python benchmarks/cost_workloads.py WORKLOAD PROFILER PROGRESS_FILE
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from typing import Any

WORKLOAD, PROFILER, PROGRESS = sys.argv[1:4] if len(sys.argv) > 3 else ("", "off", "/dev/null")
# Nobody listens there: uploads fail at once, as with a stopped agent, the same for every profiler.
# For a proof that it profiles, a receiver does, and uploads are frequent.
RECEIVER = os.environ.get("COST_UPLOAD_TO")
UPLOAD_TO = RECEIVER or "127.0.0.1:9"
PROOF_INTERVAL_S = 2
TYPES = {"conprof": "cpu", "conprof-heap": "cpu,heap", "conprof-wall": "cpu,wall,tasks"}
_progress = os.open(PROGRESS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def done() -> None:
    """Note one unit of work."""
    os.write(_progress, b".")


def start_profiler() -> None:
    """Start the profiler under test, with its defaults, at 100 Hz where it can be told."""
    often = PROOF_INTERVAL_S if RECEIVER else None
    if PROFILER in TYPES:
        import conprof_core

        types = TYPES[PROFILER]
        conprof_core.start(agent_socket=f"tcp://{UPLOAD_TO}", period=often, profile_types=types)
        assert conprof_core.is_running()
        assert conprof_core.stats()["engine"] == "native", conprof_core.stats()
    elif PROFILER == "ddtrace":
        os.environ["DD_TRACE_AGENT_URL"] = f"http://{UPLOAD_TO}"
        os.environ["DD_TRACE_ENABLED"] = "false"
        if often:
            os.environ["DD_PROFILING_UPLOAD_INTERVAL"] = str(often)
        from ddtrace.profiling import Profiler

        Profiler().start()
    elif PROFILER == "floor":
        hook_doing_nothing()
    elif PROFILER == "tracemalloc":
        import tracemalloc

        tracemalloc.start()
    elif PROFILER == "blackfire":
        from blackfire_conprof.profiler import Profiler as Blackfire

        Blackfire(
            application_name="cost", agent_socket=f"tcp://{UPLOAD_TO}", period=often or 45
        ).start()
    elif PROFILER == "pyroscope":
        import pyroscope

        assert pyroscope.configure(
            application_name="cost",
            server_address=f"http://{UPLOAD_TO}",
            upload_interval=often or 10,
            mem_enabled=WORKLOAD == "allocate",
        )


def hook_doing_nothing() -> None:
    """Hook the allocators with functions that only call the next: what nobody can beat."""
    import ctypes
    import subprocess
    import sysconfig

    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "floor_hook.c")
    library = f"{PROGRESS}.so"
    include = sysconfig.get_path("include")
    compiler = os.environ.get("CC", "cc")
    subprocess.run(
        [compiler, "-O2", "-shared", "-fPIC", f"-I{include}", source, "-o", library], check=True
    )
    ctypes.PyDLL(library).install()


def fold_words(text: str) -> int:
    """Pure-Python work in a few small functions."""
    total = 0
    for word in text.split():
        total = (total * 31 + len(word)) % 1_000_003
    return total


TEXT = "the quick brown fox jumps over the lazy dog " * 20


def unit() -> int:
    """About one millisecond of Python."""
    total = sum(fold_words(TEXT) for _ in range(50))
    record: dict[str, Any] = {"total": total, "rows": [{"id": n, "n": str(n)} for n in range(100)]}
    return len(json.dumps(record))


def cpu() -> None:
    """One thread, pure Python."""
    while True:
        unit()
        done()


def allocate() -> None:
    """Small objects of many kinds that live shortly, some longer, and now and then a buffer."""
    kept: list[object] = [None] * 10_000
    at = 0
    while True:
        for number in range(300):
            record = {"id": number, "name": f"name {number}", "tags": [number, number + 1]}
            kept[at] = (record, bytes(number))
            at = (at + 1) % len(kept)
        bytearray(20_000)
        fold_words(TEXT)
        done()


def threads() -> None:
    """Eight threads: Python, hashing without the GIL, and a lock."""
    lock = threading.Lock()
    data = bytes(200_000)

    def work() -> None:
        while True:
            unit()
            hashlib.sha256(data).digest()
            with lock:
                fold_words(TEXT)
            done()

    for _ in range(7):
        threading.Thread(target=work, daemon=True).start()
    work()


def flask_app() -> Any:
    """An application with one route."""
    from flask import Flask

    app = Flask("cost")

    @app.get("/items/<int:number>")
    def items(number: int) -> dict[str, int]:
        return {"number": number, "length": unit()}

    return app


def starlette_app() -> Any:
    """An application with one asynchronous route."""
    import asyncio

    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def items(request: Any) -> JSONResponse:
        length = unit()
        await asyncio.sleep(0)
        return JSONResponse({"number": request.path_params["number"], "length": length})

    return Starlette(routes=[Route("/items/{number:int}", items)])


def drive(port: int) -> None:
    """Ask for pages for ever, over two kept connections."""
    import http.client
    import time

    def client(number: int) -> None:
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                while True:
                    connection.request("GET", f"/items/{number}")
                    answer = connection.getresponse()
                    body = answer.read()
                    assert answer.status == 200, body
                    done()
            except OSError:
                time.sleep(0.05)

    for number in range(2):
        threading.Thread(target=client, args=(number,), daemon=True).start()


def free_port() -> int:
    """Return a TCP port that is free now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(kind: str) -> None:
    """Serve in this process, with a client in a child that is not profiled."""
    port = free_port()
    client = os.fork()
    if client == 0:
        drive(port)
        threading.Event().wait()
    with open(PROGRESS + ".client", "w") as file:
        file.write(str(client))
    start_profiler()
    if kind == "flask":
        from gunicorn.app.base import BaseApplication

        def after_fork(server: Any, worker: Any) -> None:
            if PROFILER in _AFTER_FORK:
                start_profiler()

        class Server(BaseApplication):  # type: ignore[misc]
            def load_config(self) -> None:
                settings = {"bind": f"127.0.0.1:{port}", "worker_class": "gthread", "threads": 4}
                for key, value in {**settings, "workers": 1, "loglevel": "error"}.items():
                    self.cfg.set(key, value)
                self.cfg.set("post_fork", after_fork)

            def load(self) -> Any:
                return flask_app()

        Server().run()
    else:
        import uvicorn

        uvicorn.run(starlette_app(), host="127.0.0.1", port=port, log_level="error")


# These do not follow a fork by themselves, or only when started again.
_AFTER_FORK = ("pyroscope",)

if __name__ == "__main__":
    if WORKLOAD in ("flask", "starlette"):
        serve(WORKLOAD)
    else:
        start_profiler()
        {"cpu": cpu, "threads": threads, "allocate": allocate}[WORKLOAD]()
