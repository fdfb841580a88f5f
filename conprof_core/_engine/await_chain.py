"""Where a suspended coroutine stands: from the coroutine to what it waits for at last.

Reads the interpreter's own objects and nothing of the application's: types are compared exactly,
since asking anything else for an attribute could run the application's code.
"""

from __future__ import annotations

import gc
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any, Final, NamedTuple

__all__ = ["Chain", "await_chain"]

_MAX_DEPTH: Final = 200

_WRAPPERS: Final = frozenset(
    {"async_generator_asend", "async_generator_athrow", "anext_awaitable", "coroutine_wrapper"}
)
"""Awaitables of the interpreter that stand between a coroutine and the next; they have no
attribute that leads on, but the collector knows what they hold."""


class Chain(NamedTuple):
    """An await chain.

    Attributes:
        frames: root first; empty when the coroutine has ended or is not the interpreter's.
        awaited: what the last frame waits for, where it is no coroutine.
        is_running: the coroutine runs: its deeper frames are on a thread's stack.
    """

    frames: list[FrameType]
    awaited: object
    is_running: bool


def await_chain(awaited: object) -> Chain:
    """Return where a coroutine, generator or asynchronous generator stands.

    Needs the GIL. The chain may move while it is read, if the interpreter changes threads: whoever
    wants to be sure looks whether the task still waits for the same future.
    """
    frames: list[FrameType] = []
    deeper: object
    for _ in range(_MAX_DEPTH):
        kind = type(awaited)
        frame: FrameType | None
        if isinstance(awaited, CoroutineType) and kind is CoroutineType:
            frame, is_running, deeper = awaited.cr_frame, awaited.cr_running, awaited.cr_await
        elif isinstance(awaited, GeneratorType) and kind is GeneratorType:
            frame, is_running, deeper = awaited.gi_frame, awaited.gi_running, awaited.gi_yieldfrom
        elif isinstance(awaited, AsyncGeneratorType) and kind is AsyncGeneratorType:
            # Its ag_running is also true while it awaits.
            frame, is_running, deeper = awaited.ag_frame, False, awaited.ag_await
        elif kind.__name__ in _WRAPPERS and kind.__module__ == "builtins":
            awaited = _held_by(awaited)
            continue
        else:
            break
        if frame is not None:
            frames.append(frame)
        if is_running:
            return Chain(frames, None, True)
        if frame is None:
            break
        awaited = deeper
    return Chain(frames, awaited, False)


def _held_by(wrapper: object) -> Any:
    for held in gc.get_referents(wrapper):
        if type(held) in (AsyncGeneratorType, CoroutineType, GeneratorType):
            return held
        if type(held).__name__ in _WRAPPERS:
            return held
    return None
