"""What a stack waits for, told from the places where the standard library and gevent wait."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from conprof_core._engine.task_entry import Frame

__all__ = ["state_of_stack"]

# (end of the file's name, function or "" for any, state). Of several that fit frames near the
# leaf, the first of this table wins.
_WAITS: Final = (
    ("concurrent/futures/thread.py", "_worker", "idle"),
    ("multiprocessing/pool.py", "worker", "idle"),
    ("anyio/_backends/_asyncio.py", "WorkerThread.run", "idle"),
    ("gevent/threadpool.py", "", "idle"),
    ("threading.py", "Timer.run", "timer"),
    ("asyncio/tasks.py", "sleep", "sleep"),
    ("asyncio/tasks.py", "__sleep0", "runnable"),
    ("asyncio/queues.py", "", "queue"),
    ("asyncio/locks.py", "", "lock"),
    ("asyncio/taskgroups.py", "", "task"),
    ("asyncio/streams.py", "", "I/O"),
    ("asyncio/selector_events.py", "", "I/O"),
    ("asyncio/base_events.py", "", "I/O"),
    ("asyncio/subprocess.py", "", "I/O"),
    ("anyio/_core/_eventloop.py", "sleep", "sleep"),
    ("gevent/hub.py", "sleep", "sleep"),
    ("gevent/_socket3.py", "", "I/O"),
    ("gevent/_ssl3.py", "", "I/O"),
    ("gevent/select.py", "", "I/O"),
    ("gevent/subprocess.py", "", "I/O"),
    ("gevent/lock.py", "", "lock"),
    ("gevent/event.py", "", "future"),
    ("gevent/queue.py", "", "queue"),
    ("queue.py", "", "queue"),
    ("threading.py", "", "lock"),
    ("selectors.py", "", "I/O"),
    ("socket.py", "", "I/O"),
    ("ssl.py", "", "I/O"),
    ("subprocess.py", "", "I/O"),
)

_NEAR_LEAF: Final = 4


def state_of_stack(frames: Sequence[Frame]) -> str:
    """Return what a stack waits for, or an empty string; frames leaf first."""
    best = len(_WAITS)
    for frame in frames[:_NEAR_LEAF]:
        rank = _rank(frame)
        if rank is None:
            if not _is_library(frame):
                break  # a place of the application: what called it does not wait
        elif rank < best:
            best = rank
    return _WAITS[best][2] if best < len(_WAITS) else ""


@lru_cache(maxsize=2_048)
def _rank(frame: Frame) -> int | None:
    for rank, (file, function, _) in enumerate(_WAITS):
        if _matches(frame, file, function):
            return rank
    return None


def _matches(frame: Frame, file: str, function: str) -> bool:
    return frame[1].replace("\\", "/").endswith("/" + file) and (
        not function or frame[0].rpartition("<locals>.")[2] == function
    )


def _is_library(frame: Frame) -> bool:
    return "gevent/" in frame[1] or "anyio/" in frame[1]
