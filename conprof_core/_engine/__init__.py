"""The engines: what they must offer, and the choice between them.

``native`` (the C extension) is taken where it can run and passes its self-test, else ``portable``
(pure Python); the reason is kept for ``conprof doctor`` and one log line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from conprof_core.errors import EngineUnavailableError

if TYPE_CHECKING:
    from conprof_core.exporters.naming import Naming, Shape

__all__ = [
    "ENGINES",
    "Engine",
    "EngineSettings",
    "EngineUnavailable",
    "EngineWindow",
    "Frame",
    "Part",
    "Row",
    "choose",
    "sum_counters",
]

ENGINES = ("native", "portable")


class EngineUnavailable(Exception):  # noqa: N818 - a state that choose() handles, not an error
    """Raised by an engine's constructor when it cannot run here.

    Attributes:
        reason: why, in words a user understands, without a full stop.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Frame(NamedTuple):
    """One frame of a stack; ``filename`` is empty and the lines are 0 for a synthetic frame."""

    function: str
    filename: str
    line: int
    start_line: int


class Row(NamedTuple):
    """One aggregated row of a window: equal stack, labels, thread and trace.

    The values are named as the columns of ``conprof_core.exporters.naming.COLUMNS``, and in the
    order of the extension's ``enum conprof_column``. ``trace`` is (trace id, span id), 128 and 64
    bits, or ``None``.
    """

    frames: tuple[tuple[str, str, int, int], ...]  # leaf first; shaped as Frame
    labels: tuple[tuple[str, str], ...]
    thread_name: str
    samples: int = 0
    cpu_ns: int = 0
    wall_samples: int = 0
    wall_ns: int = 0
    gil_wait_ns: int = 0
    lock_wait_ns: int = 0
    loop_blocks: int = 0
    loop_blocked_ns: int = 0
    gc_pauses: int = 0
    gc_pause_ns: int = 0
    alloc_objects: int = 0
    alloc_bytes: int = 0
    inuse_objects: int = 0
    inuse_bytes: int = 0
    tasks: int = 0
    trace: tuple[int, int] | None = None


class EngineSettings(NamedTuple):
    """What an engine needs to know.

    Attributes:
        rate_hz: samples per second of CPU time.
        period_s: seconds from ``start()`` to the first tick.
        max_stacks: distinct rows kept in one window.
        on_terminate: called once, from a background thread, when SIGTERM ends the process and
            nobody else handles it. Bounded by ``EXIT_FLUSH_S``; never raises.
        heap_bytes: mean distance of two samples of allocated memory, in bytes; 0: allocations are
            not sampled.
        heap_rate_hz: samples of allocated memory per second; of more, that distance grows until
            they are no more. 0: it stays.
        heap_old_windows: windows that a live block has seen the end of, before this one, to be
            labelled ``heap.age=old``; 0: none is.
        heap_tracemalloc: the portable engine may use ``tracemalloc`` for live memory.
        wall_rate_hz: looks a second at threads that do not run; 0: wall time is not measured.
        loop_blocked_ms: what a callback of an event loop may take, in milliseconds, before its time
            counts as blocking the loop.
    """

    rate_hz: int
    period_s: float
    max_stacks: int
    on_terminate: Callable[[], None]
    heap_bytes: int = 0
    heap_rate_hz: int = 0
    wall_rate_hz: int = 0
    heap_old_windows: int = 0
    heap_tracemalloc: bool = False
    loop_blocked_ms: int = 100


class EngineWindow(Protocol):
    """The frozen result of one window; independent of the session's later life."""

    start_ns: int  # unix time
    end_ns: int
    samples: int
    cpu_ns: int
    stacks: int
    counters: Mapping[str, int]  # what was lost, carried, truncated in this window, by reason

    def encode_pprof(
        self,
        shape: Shape,
        naming: Naming,
        *,
        mapping_file: str,
        comments: Sequence[str] = (),
        first_sample: int = 0,
    ) -> bytes | None:
        """Return one profile of the window as uncompressed pprof.

        The part of it that begins with ``first_sample`` and has at most the naming's
        ``max_samples``; ``None`` when there is no such sample and it is not the first.
        """
        ...

    def encode_otlp(
        self,
        naming: Naming,
        *,
        resource: bytes,
        version: str,
        profile_id: bytes,
        attributes: Sequence[tuple[str, int]] = (),
    ) -> bytes | None:
        """Return the window as an uncompressed OTLP request; ``None`` when it holds no sample.

        Args:
            naming: its shapes become scopes, and of more than ``max_samples`` samples of one type
                several profiles.
            resource: an encoded ``Resource``.
            version: of the scopes.
            profile_id: 16 bytes; the profiles of the request count on from it.
            attributes: numbers that stand with every profile.
        """
        ...

    def rows(self) -> list[Row]:
        """Return the aggregated rows, for doubles and tests."""
        ...


class Part(NamedTuple):
    """A window in a sum of windows.

    Attributes:
        window: of the engine that adds it up.
        added, subtracted: the columns of ``Row`` that count, and how; others count nothing.
    """

    window: EngineWindow
    added: tuple[str, ...] = Row._fields[3:-1]
    subtracted: tuple[str, ...] = ()


class Engine(Protocol):
    """What triggers samples and aggregates them.

    The engine registers no fork hooks itself: ``_fork`` calls its three steps.
    """

    name: str

    def start(self, settings: EngineSettings, tick: Callable[[], float]) -> None:
        """Begin to sample, and to call ``tick()`` from a background thread of the engine's own.

        First after ``settings.period_s``, then whenever the number of seconds that ``tick()``
        returned has passed, or ``wake()`` was called. Never two ticks at once. ``tick`` never
        raises and may call any method of the engine except ``start`` and ``stop``.
        """
        ...

    def wake(self) -> None:
        """Have ``tick()`` called as soon as possible."""
        ...

    def pause(self) -> None:
        """Take no samples until ``resume()``; ticks go on. Also called from within a tick."""
        ...

    def resume(self) -> None:
        """Sample again; CPU used during the pause is not charged."""
        ...

    def take_window(self, *, ends_period: bool = True, alive: bool = True) -> EngineWindow:
        """Swap windows. While running, and once after ``stop()`` for the last one.

        Windows may be cut within a period, for a reader: then nothing that is alive gets older, and
        ``alive`` says whether it is told at all, which costs something.
        """
        ...

    def join(
        self,
        parts: Sequence[Part],
        *,
        start_ns: int,
        end_ns: int,
        max_label_sets: int = 0,
        threads: bool = True,
    ) -> EngineWindow:
        """Return the sum of windows, which stay as they are. Any thread.

        Args:
            parts: what is added up; counters are those of all.
            start_ns, end_ns: the span that the sum is said to have.
            max_label_sets: distinct ones, those of the first parts first; what comes after shares
                the overflow set. 0: no bound.
            threads: whether rows of different threads stay apart.
        """
        ...

    def set_rate(self, rate_hz: int) -> None:
        """Sample so often from now on; no CPU time is lost or charged twice.

        Take the window first: one window has one period.
        """
        ...

    def stop(self) -> None:
        """Take no more samples and call no more ticks; a tick under way is not waited for.

        Data is kept until ``take_window()``. Harmless when called twice.
        """
        ...

    def stats(self) -> dict[str, int]:
        """Return counters since ``start()``."""
        ...

    def trouble(self) -> str:
        """Return why another engine had better go on in this process; empty: this one can.

        In words a user understands, without a full stop. It stays true.
        """
        ...

    def prefork(self) -> None:
        """Bring the engine into a state that survives a fork; its threads are gone on return."""
        ...

    def postfork_parent(self) -> None:
        """Go on after ``prefork()``, without a gap in the window."""
        ...

    def postfork_child(self) -> None:
        """Become a stopped, empty engine. Nothing of the parent's window is kept."""
        ...


def sum_counters(counters: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the counters of several windows as those of one."""
    total: dict[str, int] = {}
    for one in counters:
        for reason, count in one.items():
            total[reason] = total.get(reason, 0) + count
    return total


def choose(prefer: str | None) -> tuple[Engine, str]:
    """Return an engine and why it is not the native one (empty if it is).

    Raises:
        EngineUnavailableError: ``prefer`` names an engine that cannot run here.
    """
    reason = "CONPROF_ENGINE=portable demands it"
    if prefer != "portable":
        try:
            from conprof_core._engine.native import NativeEngine

            return NativeEngine(), ""
        except EngineUnavailable as unavailable:
            reason = unavailable.reason
        except ImportError:
            reason = "the C extension is not part of this installation"
        except Exception as error:
            # Of another build, or none: the sources alone import as an empty namespace package.
            reason = f"the C extension does not fit ({type(error).__name__}: {error})"
        if prefer == "native":
            raise EngineUnavailableError("native", reason)
    from conprof_core._engine.portable import PortableEngine

    return PortableEngine(), reason
