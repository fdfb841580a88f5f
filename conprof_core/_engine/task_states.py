"""What a stack waits for, told from the places where the standard library and gevent wait."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from conprof_core._engine.task_entry import Frame

__all__ = ["NEAR_LEAF", "lock_kind", "state_of_stack", "wait_places"]

# (end of the file's name, function or "" for any, state). Of several that fit frames near the
# leaf, the first of this table wins: so a worker's wait for work comes before the queue that it
# uses, a queue before its condition, and a condition's own lock before what the condition is for.
_WAITS: Final = (
    ("concurrent/futures/thread.py", "_worker", "idle"),
    ("multiprocessing/pool.py", "worker", "idle"),
    ("anyio/_backends/_asyncio.py", "WorkerThread.run", "idle"),
    ("gevent/threadpool.py", "", "idle"),
    ("waitress/task.py", "ThreadedTaskDispatcher.handler_thread", "idle"),
    ("threading.py", "Timer.run", "timer"),
    ("threading.py", "Condition.__enter__", "lock"),
    ("threading.py", "Condition._acquire_restore", "lock"),
    ("threading.py", "Semaphore.acquire", "lock"),
    ("sqlalchemy/util/queue.py", "Queue.get", "lock"),  # a pool of connections
    ("urllib3/connectionpool.py", "HTTPConnectionPool._get_conn", "lock"),
    ("anyio/_backends/_asyncio.py", "CapacityLimiter.acquire_on_behalf_of", "lock"),
    ("anyio/_backends/_asyncio.py", "Lock.acquire", "lock"),
    ("anyio/_backends/_asyncio.py", "Semaphore.acquire", "lock"),
    ("asyncio/tasks.py", "sleep", "sleep"),
    ("asyncio/tasks.py", "__sleep0", "runnable"),
    ("asyncio/queues.py", "", "queue"),
    ("asyncio/locks.py", "Lock.acquire", "lock"),
    ("asyncio/locks.py", "Event.wait", "event"),
    ("asyncio/locks.py", "Condition.wait", "event"),
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
    ("gevent/event.py", "", "event"),
    ("gevent/queue.py", "", "queue"),
    ("multiprocessing/queues.py", "", "queue"),
    ("queue.py", "", "queue"),
    ("concurrent/futures/_base.py", "", "future"),
    ("threading.py", "Condition.wait", "event"),
    ("threading.py", "Thread.join", "event"),
    ("threading.py", "_shutdown", "event"),
    ("threading.py", "", "lock"),
    ("selectors.py", "", "I/O"),
    ("socket.py", "", "I/O"),
    ("ssl.py", "", "I/O"),
    ("subprocess.py", "", "I/O"),
)

# As enum conprof_wait_kind of wait_place.h; other states are no wait for a lock.
_LOCK_KINDS: Final = {"lock": 1, "event": 2}

NEAR_LEAF: Final = 4


def state_of_stack(frames: Sequence[Frame]) -> str:
    """Return what a stack waits for, or an empty string; frames leaf first."""
    best = len(_WAITS)
    for frame in frames[:NEAR_LEAF]:
        rank = _rank(frame)
        if rank is None:
            if not _is_library(frame):
                break  # a place of the application: what called it does not wait
        elif rank < best:
            best = rank
    return _WAITS[best][2] if best < len(_WAITS) else ""


def lock_kind(state: str) -> int:
    """Return how far a state is a wait for a lock, as the extension numbers it; 0: not at all."""
    return _LOCK_KINDS.get(state, 0)


def wait_places() -> list[tuple[str, str, int]]:
    """Return the table as the extension takes it, for threads that it looks at itself."""
    return [(file, function, lock_kind(state)) for file, function, state in _WAITS]


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
