"""``POST /profiling/v1/input``: a bounded body, parsed on a thread, answered when durable."""

from __future__ import annotations

import asyncio
import time

from anyio import CapacityLimiter, to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from conprof_core._version import __version__
from conprof_core.agent import limits
from conprof_core.agent.errors import AgentError, StoreUnavailableError, UploadRefusedError
from conprof_core.agent.intake import Upload, parse
from conprof_core.agent.journal import Received
from conprof_core.agent.store import Store
from conprof_core.agent.writer import Writer

__all__ = ["Intake"]

# By this a probe of ours knows that it may send types that the Blackfire Agent has no name for.
ANSWER = {"conprof_agent": __version__}

# Parsing holds the GIL: more threads than this only wait for each other.
_PARSERS = 2


class Intake:
    """Counts what it takes and refuses; one for each agent."""

    def __init__(self, store: Store, writer: Writer) -> None:
        self._store = store
        self._writer = writer
        self._in_flight = 0
        self._limiter: CapacityLimiter | None = None
        self.accepted = 0
        self.refused = 0
        self.last_refusal = ""

    async def handle(self, request: Request) -> Response:
        try:
            await self._take(request)
        except ClientDisconnect:
            return Response(status_code=400)
        except AgentError as error:
            self.refused += 1
            self.last_refusal = str(error)
            headers = {"Retry-After": "5"} if error.status == 503 else None
            return JSONResponse({"error": str(error)}, error.status, headers)
        self.accepted += 1
        return JSONResponse(ANSWER)

    async def _take(self, request: Request) -> None:
        declared = request.headers.get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > limits.MAX_BODY:
            raise UploadRefusedError(f"larger than {limits.MAX_BODY >> 20} MiB", 413)
        body = bytearray()
        try:
            async with asyncio.timeout(limits.BODY_TIMEOUT_S):
                async for chunk in request.stream():
                    if len(body) + len(chunk) > limits.MAX_BODY:
                        raise UploadRefusedError(f"larger than {limits.MAX_BODY >> 20} MiB", 413)
                    if self._in_flight + len(chunk) > limits.MAX_BYTES_IN_FLIGHT:
                        raise StoreUnavailableError("too many uploads at once; try again")
                    body += chunk
                    self._in_flight += len(chunk)
            if self._limiter is None:
                self._limiter = CapacityLimiter(_PARSERS)
            content_type = request.headers.get("content-type", "")
            received = Received(content_type, bytes(body), time.time())
            upload = await to_thread.run_sync(self._parse, received, limiter=self._limiter)
            if isinstance(upload, AgentError):
                raise upload
            await asyncio.wrap_future(self._writer.submit(upload, received))
        except TimeoutError:
            raise UploadRefusedError("the body took too long", 408) from None
        finally:
            self._in_flight -= len(body)

    def _parse(self, received: Received) -> Upload | AgentError:
        """Return what the body says, or why it is refused.

        Raised through a future, a refusal would stand in a cycle with the frames of its traceback,
        and what they hold, 64 MiB of a bomb, would live until the collector comes.
        """
        try:
            upload = parse(*received)
            self._store.check(upload, received.arrived_s)
        except AgentError as error:
            error.__context__ = None
            return error.with_traceback(None)
        return upload
