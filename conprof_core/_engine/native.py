"""The native engine: per-thread CPU timers whose C handler walks the interrupted thread.

A thin face over ``conprof_core._native``; what is measured, and how, is written there. Linux and
CPython 3.11 to 3.15 with a GIL; elsewhere the constructor says why not.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from conprof_core import _log
from conprof_core._engine import EngineUnavailable, EngineWindow, Part, Row, sum_counters
from conprof_core._limits import MAX_STACKS
from conprof_core._text import valid_text

if TYPE_CHECKING:
    from conprof_core import _native
    from conprof_core._engine import EngineSettings
    from conprof_core._engine.suspended import SuspendedTasks
    from conprof_core.exporters.naming import Naming, Shape

__all__ = ["NativeEngine", "NativeWindow"]

_COUNTERS_PER_WINDOW = (
    "walks_carried",
    "ring_full_carried",
    "dear_walks_carried",
    "unwalkable",
    "no_stack_room",
    "truncated",
    "timer_overruns",
    "subinterpreter_samples",
    "label_sets_refused",
    "heap_blocks_refused",
    "heap_samples_lost",
    "heap_stacks_refused",
    "heap_hooks_detached",
)

# What ``get_native_id()`` says where gettid() is refused is more than any id (it is -1, unsigned).
_NO_NATIVE_ID = 1 << 31

# How many there are when the window ends.
_STANDS_PER_WINDOW = ("threads_untracked", "threads_blocking_signals")


_TROUBLES: Final = {
    "drain_missing": "no thread can be had behind the fork, so samples are not collected; it is "
    "tried again",
    "drain_lost": "the thread that collects samples had gone or hung; it was started again",
    "waits_given_up": "a thread of the profiler did not end in time, and was left alone",
}

_BITS: Final = {column: 1 << index for index, column in enumerate(Row._fields[3:-1])}

_REFUSED: Final = {
    "refused_reads": "process_vm_readv",
    "refused_timers": "timers on CPU clocks",
    "refused_clocks": "CPU clocks",
}


class NativeWindow:
    """One detached window. Immutable; may be encoded in any thread, and more than once."""

    def __init__(self, window: _native.Window, counters: Mapping[str, int]) -> None:
        self._window = window
        self.start_ns = window.start_ns
        self.end_ns = window.end_ns
        self.samples = window.samples
        self.cpu_ns = window.cpu_ns
        self.stacks = window.stacks
        self.counters = counters

    def encode_pprof(
        self,
        shape: Shape,
        naming: Naming,
        *,
        mapping_file: str,
        comments: Sequence[str] = (),
        first_sample: int = 0,
    ) -> bytes | None:
        """See ``EngineWindow``; the GIL is released meanwhile."""
        return self._window.encode_pprof(
            sample_types=shape.sample_types,
            period_type=shape.period_type,
            period=shape.period,
            default_sample_type=shape.default_sample_type or None,
            label_names=dict(naming.label_names),
            thread_label=naming.thread_label,
            mapping_file=mapping_file,
            comments=tuple(comments),
            max_label_sets=naming.max_label_sets,
            first_sample=first_sample,
            max_samples=naming.max_samples,
            span_form=naming.spans.form,
            span_keys=naming.spans.keys,
        )

    def encode_otlp(
        self,
        naming: Naming,
        *,
        resource: bytes,
        version: str,
        profile_id: bytes,
        attributes: Sequence[tuple[str, int]] = (),
    ) -> bytes | None:
        """See ``EngineWindow``; the GIL is released meanwhile."""
        return self._window.encode_otlp(
            shapes=naming.shapes,
            label_names=dict(naming.label_names),
            thread_label=naming.thread_label,
            resource=resource,
            version=version,
            profile_id=profile_id,
            attributes=tuple(attributes),
            max_label_sets=naming.max_label_sets,
            max_samples=naming.max_samples,
            span_form=naming.spans.form,
        )

    def rows(self) -> list[Row]:
        """Return the aggregated rows, for doubles and tests."""
        return [Row._make((*row, _ids(trace))) for *row, trace in self._window.rows()]


def _ids(trace: tuple[int, int, int] | None) -> tuple[int, int] | None:
    return None if trace is None else (trace[0] << 64 | trace[1], trace[2])


def _probe(self_test: Callable[[], str]) -> Iterator[str]:
    """Run the self-test below a generator and a call from C: its walk meets each kind of frame."""
    found: list[str] = []

    def run(_: None) -> int:
        found.append(self_test())
        return 0

    sorted([None], key=run)
    yield found[0]


class NativeEngine:
    """See ``conprof_core._engine.Engine``.

    Raises:
        EngineUnavailable: the extension is missing, or its self-test failed here.
    """

    name = "native"

    def __init__(self) -> None:
        try:
            from conprof_core import _native
        except ImportError as error:
            raise EngineUnavailable(f"the C extension cannot be imported ({error})") from error
        failed = next(_probe(_native.self_test))
        if failed:
            raise EngineUnavailable(f"the self-test failed: {failed}")
        self._native = _native
        self._original_bootstrap: Any = None
        self._installed_bootstrap: Any = None
        self._hooked_class: Any = None
        self._before: dict[str, int] = {}
        self._watches_gc = False
        self._suspended: SuspendedTasks | None = None
        self._is_forked = False
        self._told: dict[str, int] = {}

    def start(self, settings: EngineSettings, tick: Callable[[], float]) -> None:
        """Arm every thread of the process and begin."""
        if settings.wall_rate_hz:
            from conprof_core._engine.task_states import wait_places

            self._native.wait_places(wait_places())
        is_forked, self._is_forked = self._is_forked, False
        self._told = {}
        is_drained = self._native.start(
            rate_hz=settings.rate_hz,
            period_s=settings.period_s,
            max_stacks=settings.max_stacks,
            tick=lambda: self._tick(tick),
            on_terminate=settings.on_terminate,
            on_trouble=self._tell,
            wall_rate_hz=settings.wall_rate_hz,
            blocked_ms=settings.loop_blocked_ms,
        )
        if not is_drained:
            if not is_forked:
                self._native.stop()
                raise RuntimeError("the drain thread could not be started")
            # Who forked cannot be told, and threads may come to be had: it is tried again.
            self._tell()
        self._before = {}
        if settings.wall_rate_hz:
            # Imported here: without wall time nobody needs it.
            from conprof_core._engine.loops import LoopWatch
            from conprof_core._engine.suspended import SuspendedTasks

            native = self._native
            self._suspended = SuspendedTasks(
                native.charge_suspended, native.context_var, native.running_loops
            )
            watch = LoopWatch(native.loop_threads, native.watch_loops, self._suspended.look)
            native.look_at_tasks(watch.look)
            self._watch_gc()
        if settings.heap_bytes:
            failed = self._native.start_heap(
                settings.heap_bytes, settings.heap_rate_hz, settings.heap_old_windows
            )
            if failed:
                _log.log(_log.ERROR, "heap", f"allocations are not profiled: {failed}")
        self._hook_threads()
        for thread in threading.enumerate():
            # A library's own class may lack it, and a sandbox may refuse it.
            native_id = getattr(thread, "native_id", None)
            if native_id is not None and native_id < _NO_NATIVE_ID:
                self._native.name_thread(native_id, valid_text(str(thread.name)))

    def _tick(self, tick: Callable[[], float]) -> float:
        self._tell()
        return tick()

    def _tell(self) -> None:
        """Say once of each what keeps the engine's threads from running, and that they do again.

        Called from places only where no lock of a log handler can be held: a tick, a fork, a stop.
        """
        with _log.guard("tell"):  # there may be no memory even for this
            now = self._native.stats()
            for name, text in _TROUBLES.items():
                if now[name] and not self._told.get(name):
                    self._told[name] = 1
                    _log.log(_log.ERROR, "engine", "%s", text)
            if self._told.get("drain_missing") and not now["drain_missing"]:
                self._told["drain_missing"] = 0
                text = "the thread could be had again: profiling goes on"
                _log.log(_log.ERROR, "engine", "%s", text)

    def stop(self) -> None:
        """Take no more samples; the last window stays to be taken."""
        suspended, self._suspended = self._suspended, None
        _log.each(
            "stop",
            self._tell,
            self._unhook_threads,
            suspended.close_window if suspended is not None else None,
            self._unwatch_gc,
        )
        self._native.stop()

    def wake(self) -> None:
        """Have ``tick()`` called as soon as possible."""
        self._native.wake()

    def pause(self) -> None:
        """Discard samples until ``resume()``."""
        self._native.pause(True)

    def resume(self) -> None:
        """Sample again."""
        self._native.pause(False)

    def set_rate(self, rate_hz: int) -> None:
        """Arm all timers anew."""
        self._native.set_rate(rate_hz)

    def take_window(self, *, ends_period: bool = True, alive: bool = True) -> NativeWindow:
        """Swap windows; the GIL is released meanwhile."""
        if self._suspended is not None:
            self._suspended.close_window()
        if self._watches_gc:
            self._watch_gc()  # somebody may have emptied the list
        window = self._native.take_window(ends_period, alive)
        now = self._native.stats()
        counters = {
            name: now[name] - self._before.get(name, 0)
            for name in _COUNTERS_PER_WINDOW
            if now[name] != self._before.get(name, 0)
        }
        counters.update({name: now[name] for name in _STANDS_PER_WINDOW if now[name]})
        if window.overflowed:
            counters["stack_table_full"] = window.overflowed
        if window.traces_refused:
            counters["trace_ids_refused"] = window.traces_refused
        self._before = now
        return NativeWindow(window, counters)

    def join(
        self,
        parts: Sequence[Part],
        *,
        start_ns: int,
        end_ns: int,
        max_label_sets: int = 0,
        threads: bool = True,
    ) -> EngineWindow:
        """Add windows up; the GIL is released meanwhile."""
        window = self._native.join(
            tuple(
                (
                    cast("NativeWindow", part.window)._window,
                    sum(map(_BITS.__getitem__, part.added)),
                    sum(map(_BITS.__getitem__, part.subtracted)),
                )
                for part in parts
            ),
            start_ns=start_ns,
            end_ns=end_ns,
            max_stacks=MAX_STACKS,
            max_label_sets=max_label_sets,
            threads=threads,
        )
        counters = sum_counters(part.window.counters for part in parts)
        if window.overflowed:
            counters["stack_table_full"] = counters.get("stack_table_full", 0) + window.overflowed
        if window.traces_refused:
            refused = counters.get("trace_ids_refused", 0)
            counters["trace_ids_refused"] = refused + window.traces_refused
        return NativeWindow(window, counters)

    def stats(self) -> dict[str, int]:
        """Return the counters since ``start()``."""
        counters = self._native.stats()
        if self._suspended is not None:
            counters.update(self._suspended.counters())
        return counters

    def trouble(self) -> str:
        """Return which system calls that it needs are refused, as by a sandbox that closed."""
        refused = self._native.stats()
        found = [call for name, call in _REFUSED.items() if refused[name]]
        return f"a sandbox now refuses {' and '.join(found)}" if found else ""

    def prefork(self) -> None:
        """Park the drain thread and hold the session's lock."""
        self._native.prefork()

    def postfork_parent(self) -> None:
        """Go on."""
        self._native.postfork_parent()

    def postfork_child(self) -> None:
        """Become a stopped, empty engine; timers were not inherited."""
        self._unhook_threads()
        self._unwatch_gc()
        self._native.postfork_child()
        self._is_forked = True
        self._before = {}
        self._suspended = None

    def _hook_threads(self) -> None:
        # In C, so that no frame of ours stands on anybody's stack. gevent puts a subclass in the
        # place of Thread: the hook belongs where the method is defined.
        owner: Any = next(c for c in threading.Thread.__mro__ if "_bootstrap" in c.__dict__)
        self._hooked_class = owner
        self._original_bootstrap = owner.__dict__["_bootstrap"]
        self._installed_bootstrap = self._native.bootstrap_descriptor(
            owner, self._original_bootstrap
        )
        owner._bootstrap = self._installed_bootstrap

    def _watch_gc(self) -> None:
        # A builtin: it leaves no frame of ours. The list belongs to everybody.
        self._watches_gc = True
        callback: Any = self._native.gc_callback
        # By identity: what else is in the list may compare in any way.
        if not any(other is callback for other in gc.callbacks):
            gc.callbacks.append(callback)

    def _unwatch_gc(self) -> None:
        self._watches_gc = False
        callback: Any = self._native.gc_callback
        for index in range(len(gc.callbacks) - 1, -1, -1):
            if gc.callbacks[index] is callback:
                del gc.callbacks[index]
        self._native.gc_flush()

    def _unhook_threads(self) -> None:
        # Whoever hooked on top of us keeps a working chain: ours only calls the original.
        owner = self._hooked_class
        if (
            self._installed_bootstrap is not None
            and owner.__dict__.get("_bootstrap") is self._installed_bootstrap
        ):
            owner._bootstrap = self._original_bootstrap
        self._installed_bootstrap = None
