"""What there is to read, and why not where it cannot be had: profile by profile."""

from __future__ import annotations

from typing import Final, NamedTuple

from conprof_core import _profiler
from conprof_core._cuts import TURNED_OFF
from conprof_core._options import ProfileType
from conprof_core._session import Session
from conprof_core.pull.answer import Failed, refusal
from conprof_core.pull.window_profile import Readable, WindowProfile

__all__ = ["CATALOG", "Entry", "open_profile", "why_not"]


class Entry(NamedTuple):
    """One profile.

    Attributes:
        name: last part of its path.
        measures: what must be measured for it; ``None``: it is taken when it is asked for.
        takes_time: whether it is of a span even when no length is given.
        text: for people.
    """

    name: str
    measures: ProfileType | None
    takes_time: bool
    text: str


CATALOG: Final = (
    Entry("profile", ProfileType.CPU, True, "CPU time of the next ?seconds= (30)"),
    Entry("wall", ProfileType.WALL, True, "elapsed time of the next ?seconds= (30)"),
    Entry("block", ProfileType.WALL, True, "waits for locks in the next ?seconds= (30)"),
    Entry("heap", ProfileType.HEAP, False, "live memory, and all allocations since the start"),
    Entry("allocs", ProfileType.HEAP, False, "the same, allocations first"),
    Entry("goroutine", None, False, "threads, asyncio tasks and greenlets"),
)
_ENTRIES: Final = {entry.name: entry for entry in CATALOG}


def why_not(entry: Entry, session: Session | None) -> str:
    """Return why a profile cannot be had, and what to do about it; empty when it can."""
    wanted = entry.measures
    if wanted is None:
        return ""
    if session is None:
        return "the profiler does not run in this process: see its log, and conprof doctor"
    config = session.config
    if not config.enabled:
        return TURNED_OFF
    if wanted not in config.profile_types:
        types = ",".join((*config.profile_types, wanted))
        return f"it is not measured: turn it on with CONPROF_PROFILE_TYPES={types}"
    if session.engine.name == "native" or wanted is ProfileType.CPU:
        return ""
    if wanted is ProfileType.WALL:
        return f"the portable engine measures no wall time; it runs because {session.reason}"
    if entry.name == "heap" and config.heap_tracemalloc:
        return ""
    return (
        "the portable engine sees no allocations, and live memory (heap) only with "
        f"CONPROF_HEAP_TRACEMALLOC=1, at a price; it runs because {session.reason}"
    )


def open_profile(name: str) -> tuple[Entry, Readable]:
    """Return a profile for one request, of the session that runs now.

    Raises:
        Failed: with the answer, when there is no such profile here and now.
    """
    entry = _ENTRIES.get(name)
    if entry is None:
        raise Failed(refusal(404, "Unknown profile"))
    session = _profiler.session()
    reason = why_not(entry, session)
    if reason:
        is_off = session is None or not session.config.enabled
        raise Failed(refusal(503 if is_off else 404, f"{name}: {reason}"))
    if entry.measures is None or session is None:
        from conprof_core.pull.tasks_profile import TasksProfile

        return entry, TasksProfile(use_extension=session is None or session.engine.name == "native")
    return entry, WindowProfile(session, name, is_state=not entry.takes_time)
