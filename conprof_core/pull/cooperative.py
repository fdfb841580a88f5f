"""Waiting on an asyncio loop: work is done in short-lived threads, and time passes in the loop.

Not in the loop's own executor: what the application has put there may keep it busy for long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from conprof_core._threads import Thread
from conprof_core.pull.answer import Answer, refusal

if TYPE_CHECKING:
    from conprof_core.pull.handler import Pull
    from conprof_core.pull.request import Request

__all__ = ["answer_async"]

_T = TypeVar("_T")


async def answer_async(
    pull: Pull, request: Request, gone: Callable[[], Awaitable[object]] | None
) -> Answer | None:
    """See ``Pull.answer_async``."""
    refused = pull.refused(request)
    if refused is not None:
        return refused
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return refusal(503, "this server runs no asyncio loop, which the handler needs")
    try:
        return await _answer(pull, request, gone)
    except _NoThreadError:
        return refusal(503, "no thread can be had; try again later")


async def _answer(
    pull: Pull, request: Request, gone: Callable[[], Awaitable[object]] | None
) -> Answer | None:
    found = await _in_thread(lambda: pull.prepared(request))
    if isinstance(found, Answer):
        return found
    # Whatever ends this coroutine, a reading that goes on would hold its windows for ever.
    try:
        failed = await _in_thread(found.begin)
        if failed is not None:
            return failed
        if not await _pass(found.seconds, gone):
            return None
        return await _in_thread(found.end)
    finally:
        found.abandon()


async def _pass(seconds: float, gone: Callable[[], Awaitable[object]] | None) -> bool:
    """Wait; ``False`` when whoever asked has gone meanwhile."""
    if gone is None:
        await asyncio.sleep(seconds)
        return True
    leaving = asyncio.ensure_future(gone())
    try:
        done, _ = await asyncio.wait({leaving}, timeout=seconds)
    finally:
        leaving.cancel()
    return not done


class _NoThreadError(Exception):
    """No thread can be started."""


async def _in_thread(work: Callable[[], _T]) -> _T:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def tell(result: _T | None, error: BaseException | None) -> None:
        if done.done():
            return  # cancelled: nobody waits any more
        if error is None:
            done.set_result(result)  # type: ignore[arg-type]
        else:
            done.set_exception(error)

    def run() -> None:
        result: _T | None = None
        raised: BaseException | None = None
        try:
            result = work()
        except BaseException as error:
            raised = error
        try:
            loop.call_soon_threadsafe(tell, result, raised)
        except RuntimeError:
            pass  # the loop has been closed

    try:
        Thread(run).start()
    except RuntimeError:
        raise _NoThreadError from None
    return await done
