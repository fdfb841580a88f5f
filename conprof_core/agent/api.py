"""HTTP routes: intake, ``/api/v1``, the viewer's files. Documented in docs/agent-api.md.

Queries run on worker threads (DuckDB releases the GIL); the event loop only moves bytes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Final

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from conprof_core._version import __version__
from conprof_core.agent import export, limits, query
from conprof_core.agent.assets import viewer_file
from conprof_core.agent.errors import AgentError, BadQueryError
from conprof_core.agent.losses import losses
from conprof_core.agent.merge import covered_ms, find_type, merge_into, stacks
from conprof_core.agent.names import route_key
from conprof_core.agent.security import Guard
from conprof_core.agent.selection import (
    Selection,
    check_limit,
    parse_selection,
    parse_step,
)
from conprof_core.agent.store import Store
from conprof_core.agent.tree import FlameTree
from conprof_core.agent.upload_route import Intake
from conprof_core.agent.writer import Writer

__all__ = ["create_app"]

_QUERIES_AT_ONCE: Final = 4
_INTAKE_PATHS: Final = ("/profiling/v1/input", "/api/v2/profile", "/v1/input")

Parameters = dict[str, list[str]]


class Api:
    """The query side of one agent."""

    def __init__(self, store: Store, writer: Writer, intake: Intake) -> None:
        self._store = store
        self._writer = writer
        self._intake = intake
        self._started_s = time.time()
        self._limiter: CapacityLimiter | None = None

    def endpoint(self, answer: Callable[[Parameters], Any]) -> Callable[[Request], Any]:
        """Wrap a query: parameters in, JSON (or a ready response) out, errors as 4xx."""

        async def handle(request: Request) -> Response:
            if self._limiter is None:
                self._limiter = CapacityLimiter(_QUERIES_AT_ONCE)
            parameters: Parameters = {}
            for name, value in request.query_params.multi_items():
                parameters.setdefault(name, []).append(value)

            def run() -> Any:
                if self._writer.has_pending:
                    self._writer.flush().result()
                return answer(parameters)

            try:
                found = await to_thread.run_sync(run, limiter=self._limiter)
            except AgentError as error:
                return JSONResponse({"error": str(error)}, error.status)
            if isinstance(found, Response):
                return found
            body = json.dumps(found, separators=(",", ":"), ensure_ascii=False)
            return Response(body.encode("utf-8", "replace"), media_type="application/json")

        return handle

    def status(self, _: Parameters) -> dict[str, Any]:
        store = self._store
        return {
            "version": __version__,
            "now_ms": round(time.time() * 1000),
            "started_ms": round(self._started_s * 1000),
            "uploads": {
                "stored": self._writer.stored,
                "refused": self._intake.refused,
                "last_refusal": self._intake.last_refusal,
                "commits": self._writer.commits,
                "lost": self._writer.lost,
            },
            "store": {
                "files": len(store.segments()),
                "bytes": store.size,
                "max_bytes": store.max_bytes,
                "keep_days": store.keep_days,
            },
        }

    def services(self, parameters: Parameters) -> dict[str, Any]:
        selection = parse_selection(parameters)
        return {"services": query.services(self._store, selection.from_s, selection.to_s)}

    def labels(self, parameters: Parameters) -> dict[str, Any]:
        return {"labels": query.labels(self._store, parse_selection(parameters))}

    def losses(self, parameters: Parameters) -> dict[str, Any]:
        return losses(self._store, parse_selection(parameters))

    def table(self, parameters: Parameters) -> dict[str, Any]:
        key = parameters.get("by", [route_key])[-1]
        return query.table(self._store, parse_selection(parameters), key)

    def series(self, parameters: Parameters) -> dict[str, Any]:
        selection = parse_selection(parameters)
        span = max(1.0, selection.to_s - selection.from_s)
        step = parse_step(parameters.get("step", [""])[-1], span)
        return query.series(self._store, selection, step, parameters.get("by", [""])[-1])

    def flamegraph(self, parameters: Parameters) -> Any:
        selection = parse_selection(parameters)
        wanted = parameters.get("format", ["json"])[-1]
        if wanted != "json":
            return self._export(selection, wanted)
        count = check_limit(
            parameters.get("max_nodes", [""])[-1],
            limits.MAX_NODES_IN_ANSWER,
            limits.MAX_NODES_IN_ANSWER,
        )
        tree = FlameTree()
        merge_into(tree, self._store, selection)
        return self._head(selection) | tree.to_json(count)

    def top(self, parameters: Parameters) -> dict[str, Any]:
        selection = parse_selection(parameters)
        count = check_limit(parameters.get("limit", [""])[-1], 1000)
        tree = FlameTree()
        merge_into(tree, self._store, selection)
        rows = tree.top()
        return self._head(selection) | {
            "total": round(tree.totals[0][0], 3),
            "distinct": len(rows),
            "rows": rows[:count],
        }

    def diff(self, parameters: Parameters) -> dict[str, Any]:
        selection = parse_selection(parameters)
        base = parse_selection(parameters, "base.")
        count = check_limit(
            parameters.get("max_nodes", [""])[-1],
            limits.MAX_NODES_IN_ANSWER,
            limits.MAX_NODES_IN_ANSWER,
        )
        tree = FlameTree()
        merge_into(tree, self._store, selection)
        merge_into(tree, self._store, base, 1)
        return (
            self._head(selection) | {"base": self._head(base)} | tree.to_json(count, compared=True)
        )

    def _head(self, selection: Selection) -> dict[str, Any]:
        kind = find_type(self._store, selection)
        return {
            "type": selection.type,
            "unit": kind.unit if kind else "",
            "original": kind.original if kind else "",
            "instant": bool(kind and kind.instant),
            "from_ms": round(selection.from_s * 1000),
            "to_ms": round(selection.to_s * 1000),
            "covered_s": covered_ms(self._store, selection) / 1000,
        }

    def _export(self, selection: Selection, wanted: str) -> Response:
        if wanted not in export.MEDIA_TYPES:
            raise BadQueryError(f"'format' is json, {', '.join(export.MEDIA_TYPES)}")
        media_type, ending = export.MEDIA_TYPES[wanted]
        kind = find_type(self._store, selection)
        unit = kind.unit if kind else "count"
        found = stacks(self._store, selection)
        content: str | bytes
        if wanted == "pprof":
            # The duration is what uploads cover, so that rates taken from the file are right.
            start = int(selection.from_s * 1e9)
            end = start + covered_ms(self._store, selection) * 1_000_000
            content = export.pprof(found, selection.type, unit, start, end)
        elif wanted == "folded":
            content = export.folded(found)
        else:
            content = export.speedscope(found, f"{selection.service} {selection.type}", unit)
        # The name is fixed: nothing from a request belongs in a header.
        disposition = f'attachment; filename="conprof.{ending}"'
        return Response(
            content, media_type=media_type, headers={"Content-Disposition": disposition}
        )

    def profile(self, parameters: Parameters) -> Any:
        return self.flamegraph({"format": ["pprof"]} | parameters)


async def _info(_: Request) -> Response:
    """What tracers ask before they upload."""
    return JSONResponse({"version": __version__, "endpoints": list(_INTAKE_PATHS[:1])})


def create_app(store: Store, writer: Writer, token: str | None = None) -> Starlette:
    """Return the application of one agent."""
    intake = Intake(store, writer)
    api = Api(store, writer, intake)
    queries = ("services", "labels", "losses", "table", "series", "flamegraph", "top", "diff")
    routes = [Route(path, intake.handle, methods=["POST", "PUT"]) for path in _INTAKE_PATHS[:1]]
    routes.append(Route("/info", _info))
    for name in ("status", *queries, "profile"):
        routes.append(Route(f"/api/v1/{name}", api.endpoint(getattr(api, name))))
    # Where `go tool pprof http://host:port` looks when it is given no path.
    routes.append(Route("/debug/pprof/profile", api.endpoint(api.profile)))
    routes.append(Route("/{name:path}", viewer_file))
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(Guard, token=token),
            Middleware(GZipMiddleware, minimum_size=2048, compresslevel=1),
        ],
    )
