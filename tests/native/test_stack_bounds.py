"""What our functions take of other people's stacks, along their deepest paths (stack_bounds.h)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.stack_usage import CallGraph, CannotTell, call_graph, constants

# Below its stack pointer a function that calls none may use so much (the System V ABI for x86-64).
RED_ZONE = 128

# What the functions of other libraries take that handler and hooks may call: there is no other.
# Measured, and rounded up; the clocks of the vDSO take most.
OUTSIDE = {
    "__errno_location": 8,
    "__popcountdi2": 16,
    "__stack_chk_fail": 0,
    "clock_gettime": 112,
    "getpid": 8,
    "memcpy": 16,
    "memset": 16,
    "pthread_getspecific": 32,
    "pthread_self": 8,
    "PyGILState_GetThisThreadState": 64,
    "PyThreadState_GetUnchecked": 32,
    "_PyThreadState_UncheckedGet": 32,
    "syscall": 16,
    "timer_settime": 64,
}
OUTSIDE_OF_HOOKS = OUTSIDE | {
    "expm1": 112,
    "log": 48,
    "pthread_mutex_lock": 112,
    "pthread_mutex_unlock": 64,
}

HOOKS = (
    *("mem_malloc", "mem_calloc", "mem_realloc", "mem_free"),
    *("obj_malloc", "obj_calloc", "obj_realloc", "obj_free"),
    *("raw_malloc", "raw_calloc", "raw_realloc", "raw_free", "pooled_malloc"),
)

CALLS = (
    *("bootstrap", "guard_dealloc", "name_thread"),
    *("intern_labels", "label_set_dealloc"),
    *("cell_new", "cell_bind", "cell_set_trace", "cell_end_trace", "cell_dealloc"),
    *("enter_request", "switch_request", "scope_enter", "scope_bind", "scope_exit", "charge"),
    *("gc_callback", "gc_flush"),
    *("prefork", "postfork_parent", "postfork_child"),
    *("before_fork", "after_fork_in_parent", "after_fork_in_child"),
)

SESSION = ("start", "stop", "take_window", "stats", "window_encode_pprof", "window_encode_otlp")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CallGraph]:
    try:
        yield call_graph(tmp_path_factory.mktemp("stack"))
    except CannotTell as missing:
        pytest.skip(f"stack bounds cannot be checked here: {missing}")


@pytest.fixture(scope="module")
def bounds() -> dict[str, int]:
    return constants("stack_bounds.h")


def test_the_signal_handler(graph: CallGraph, bounds: dict[str, int]) -> None:
    unknown = graph.outside("on_timer") - OUTSIDE.keys()
    assert not unknown, f"not known to be safe in signal context: {sorted(unknown)}"
    deepest = graph.deepest("on_timer", OUTSIDE)
    assert deepest.bytes + RED_ZONE <= bounds["CONPROF_HANDLER_STACK_BYTES"], deepest


@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_of_the_allocators(graph: CallGraph, bounds: dict[str, int], hook: str) -> None:
    unknown = graph.outside(hook) - OUTSIDE_OF_HOOKS.keys()
    assert not unknown, f"what do these take of the stack? {sorted(unknown)}"
    deepest = graph.deepest(hook, OUTSIDE_OF_HOOKS)
    assert deepest.bytes + RED_ZONE <= bounds["CONPROF_HOOK_STACK_BYTES"], deepest


@pytest.mark.parametrize("function", CALLS)
def test_calls_on_threads_of_the_application(
    graph: CallGraph, bounds: dict[str, int], function: str
) -> None:
    deepest = graph.deepest(function, OUTSIDE_OF_HOOKS)
    assert deepest.bytes + RED_ZONE <= bounds["CONPROF_CALL_STACK_BYTES"], deepest


@pytest.mark.parametrize("function", SESSION)
def test_begin_and_end_of_sessions_and_windows(
    graph: CallGraph, bounds: dict[str, int], function: str
) -> None:
    deepest = graph.deepest(function, OUTSIDE_OF_HOOKS)
    assert deepest.bytes + RED_ZONE <= bounds["CONPROF_SESSION_STACK_BYTES"], deepest


def test_no_hook_drains(graph: CallGraph) -> None:
    """The drain is the only one who takes in what many others have written."""
    for function in ("on_timer", *HOOKS):
        titles = {"conprof_drain_ring"} & reached(graph, function)
        assert not titles, function


def reached(graph: CallGraph, function: str) -> set[str]:
    seen: set[str] = set()
    waiting = graph.find(function)
    while waiting:
        title = waiting.pop()
        if title not in seen:
            seen.add(title)
            waiting += graph.calls.get(title, ())
    return seen
