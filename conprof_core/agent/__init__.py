"""The local agent: takes uploads, stores them, answers queries and serves the viewer.

    HTTP body ─► multipart ─► event, pprof ─► intake ─► writer ─► journal ─► store (DuckDB files)
                                                                               │
    viewer, CLI, go tool pprof ◄─ api ◄─ export ◄─ tree ◄─ merge, query ◄┘

Independent of the profiler: it shares nothing with the sampler but the wire. Everything below
``intake`` needs only the standard library; ``store`` needs duckdb, ``api`` Starlette and uvicorn,
all in the extra ``conprof[agent]``.
"""

from __future__ import annotations
