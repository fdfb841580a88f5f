"""The matrix: which program runs in which environment, and what of it can be judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cruel import steps
from cruel.seccomp import THREAD_CLOCKS
from cruel.steps import Step

Steps = tuple[Step, ...]


@dataclass(frozen=True)
class Smallest:
    """A size that the runner finds: the smallest at which the program lives without us, plus this.

    Attributes:
        kind: what is sought, ``alternate`` or ``thread``.
        plus: bytes above it, or below.
    """

    kind: str
    plus: int


@dataclass(frozen=True)
class Cell:
    """A program in an environment.

    Attributes:
        name: group and case.
        program: module and function below programs/.
        arguments: of the program.
        before_exec: what the process is born into.
        before_start: what it enters before the profiler starts.
        after_start: what it enters later.
        options: of ``start()``, beyond those of all cells.
        is_native: the native engine must be able to run; else the portable one may take its place.
        unjudged: why CPU is not compared, or "".
        attributed: whether the burnt time must stand where it was burnt, or under a synthetic name.
        stops: whether the program calls stop() at its end.
        dies: it must die without the profiler already, and nothing else is judged.
        in_host: libpython is loaded by dlopen.
        is_quick: belongs to the cut that CI runs.
        timeout_s: whoever takes longer hangs.
    """

    name: str
    program: str
    arguments: tuple[Any, ...] = ()
    before_exec: Steps = ()
    before_start: Steps = ()
    after_start: Steps = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    is_native: bool = True
    unjudged: str = ""
    attributed: bool = True
    stops: bool = True
    dies: bool = False
    in_host: bool = False
    is_quick: bool = False
    timeout_s: float = 30


# System calls of ours that CPython can do without, in its process or in all that the programs do.
OPTIONAL_CALLS = (
    "timer_create",
    "timer_settime",
    "timer_gettime",
    "timer_getoverrun",
    "timer_delete",
    "process_vm_readv",
    "tgkill",
    "rt_sigtimedwait",
    "rt_tgsigqueueinfo",
    THREAD_CLOCKS,
    "prctl",
    "gettid",
    "madvise",
    "membarrier",
    "sched_getaffinity",
    "sched_yield",
    "sigaltstack",
    "getrusage",
    "sysinfo",
    "uname",
)
# CPython needs these to begin, and no longer when it runs.
LATE_CALLS = ("rt_sigaction", "getdents64", "clock_nanosleep", "getrandom", "fsync")
TIMERS = OPTIONAL_CALLS[:5]
QUICK_CALLS = {"timer_create", "timer_settime", "process_vm_readv", "tgkill", THREAD_CLOCKS}

FORKS = (
    *("os_fork", "os_fork_exit", "forkpty", "libc_fork", "raw_fork", "libc_fork_starts"),
    *("libc_fork_stops", "popen", "popen_preexec", "system", "posix_spawn", "mp_fork"),
    *("mp_forkserver", "mp_spawn", "grandchild", "in_thread", "two_at_once", "while_threads_burn"),
)
QUICK_FORKS = {"os_fork", "libc_fork", "libc_fork_starts", "mp_fork", "two_at_once"}

# Options of start(), unless a cell has its own.
DEFAULTS = {"period": 0.5, "cpu_duration": 0.5, "cpu_profile_rate": 1000}
# Whoever waits for a wake-up that does not come is let go by the end of a short window.
LONG = {"period": 3600, "cpu_duration": 3600}

GONE = "what was not sent yet is gone with the process"
EXITS = {
    "returns": "",
    "sys_exit": "",
    "sys_exit_text": "",
    "os_exit": GONE,
    "exception": "",
    "sigterm": "native only",
    "sigterm_handled": "",
    "sigterm_blocked": "native only",
    "sigint": "",
    "sigkill": GONE,
    "abort": GONE,
    "daemon_threads": "",
    "waiting_thread": "",
    "atexit_raises": "",
    "atexit_works": "",
    "atexit_forks": "",
    "closed_streams": "",
    "exit_in_thread": GONE,
}
LONG_EXITS = {"sys_exit", "exception", "sigterm_handled", "sigint", "atexit_works"}
QUICK_EXITS = {"returns", "sys_exit", "sigterm", "sigkill", "daemon_threads"}


def _limits() -> Iterator[Cell]:
    user = steps.other_user()
    for pending in (0, 6, 60):
        yield Cell(
            f"limit/sigpending-{pending}",
            "ordinary.with_fork",
            (12,),
            before_exec=(user, steps.limit("SIGPENDING", pending)),
            options=LONG,
            is_native=False,
            is_quick=pending == 6,
        )
    yield Cell(
        "limit/sigpending-late",
        "ordinary.signals_used_up",
        before_exec=(user,),
        after_start=(steps.limit("SIGPENDING", 30),),
        options=LONG,
        is_quick=True,
    )
    for free in (1, 4, 60):
        yield Cell(
            f"limit/nofile-{free}",
            "ordinary.greedy_files",
            before_start=(steps.open_files(free),),
            is_quick=free == 1,
        )
    yield Cell("limit/nofile-late", "ordinary.greedy_files", after_start=(steps.open_files(2),))
    for mebibytes in (8, 40, 400):
        yield Cell(
            f"limit/as-{mebibytes}",
            "ordinary.greedy_memory",
            before_start=(steps.address_space(mebibytes),),
            is_native=mebibytes == 400,
            unjudged="no memory to profile with" if mebibytes == 8 else "",
            is_quick=mebibytes == 40,
        )
    yield Cell("limit/as-late", "ordinary.greedy_memory", after_start=(steps.address_space(12),))
    for processes in (1, 5, 40):
        yield Cell(
            f"limit/nproc-{processes}",
            "ordinary.alone" if processes == 1 else "ordinary.greedy_threads",
            before_exec=(user, steps.limit("NPROC", processes)),
            is_native=processes > 1,
            unjudged="no thread to profile with" if processes == 1 else "",
            is_quick=processes == 1,
        )
    yield Cell(
        "limit/nproc-late",
        "ordinary.with_fork",
        (0,),
        before_exec=(user,),
        after_start=(steps.limit("NPROC", 3),),
    )


def _signals() -> Iterator[Cell]:
    blocked = (steps.blocked(),)
    yield Cell("signals/blocked-inherited", "signals.pending", before_exec=blocked, is_quick=True)
    yield Cell("signals/blocked-before", "signals.pending", before_start=blocked)
    yield Cell("signals/blocked-after", "signals.blocked_here")
    yield Cell("signals/blocked-thread", "signals.blocked_in_thread", is_quick=True)
    yield Cell("signals/handled", "signals.handled", is_quick=True)
    for name in ("handled_by_c", "reset", "ignored", "interrupted_calls", "cancelled"):
        yield Cell(f"signals/{name}", f"signals.{name}", is_quick=name == "reset")
    for how in ("sigwait", "sigtimedwait", "signalfd"):
        quick = how == "sigwait"
        yield Cell(f"signals/taken-{how}", "signals.taken", (how,), is_quick=quick)
    # The library holds the GIL, which the end of a window takes.
    yield Cell("signals/longjmp", "signals.jumping", options=LONG, is_quick=True)


def _stacks() -> Iterator[Cell]:
    for is_above in (False, True):
        place = "above" if is_above else "below"
        for plus in (0, 256, 1024, 2048):
            yield Cell(
                f"stack/signal-{place}+{plus}",
                "stacks.alternate",
                (Smallest("alternate", plus), is_above),
                is_quick=plus == 0 and not is_above,
            )
        for size in (8192, 16384, 65536):
            yield Cell(f"stack/signal-{place}-{size}", "stacks.alternate", (size, is_above))
    yield Cell(
        "stack/signal-too-small",
        "stacks.alternate",
        (Smallest("alternate", -256), False),
        dies=True,
    )
    for plus in (0, 4096, 8192, 65536):
        yield Cell(
            f"stack/thread+{plus}",
            "stacks.thread",
            (Smallest("thread", plus),),
            is_quick=plus == 4096,
        )
    yield Cell("stack/thread-too-small", "stacks.thread", (Smallest("thread", -4096),), dies=True)


def _sandboxes() -> Iterator[Cell]:
    for error in ("EPERM", "ENOSYS"):
        for call in OPTIONAL_CALLS + LATE_CALLS:
            name = call.replace(" ", "-")
            quick = error == "EPERM" and call in QUICK_CALLS
            filtered = (steps.refused(error, call),)
            if call in OPTIONAL_CALLS:
                yield Cell(
                    f"seccomp/{error}-{name}-before",
                    "ordinary.with_fork",
                    before_exec=filtered,
                    options=LONG,
                    is_native=False,
                    is_quick=quick,
                )
            yield Cell(
                f"seccomp/{error}-{name}-after",
                "ordinary.with_fork",
                after_start=filtered,
                options=LONG,
                is_quick=quick,
            )
        yield Cell(
            f"seccomp/{error}-all-timers-after",
            "ordinary.with_fork",
            after_start=(steps.refused(error, *TIMERS),),
            options=LONG,
        )
        yield Cell(
            f"seccomp/{error}-all-after",
            "ordinary.with_fork",
            after_start=(steps.refused(error, *OPTIONAL_CALLS),),
        )
        yield Cell(
            f"seccomp/{error}-rename-after",
            "ordinary.with_fork",
            after_start=(steps.refused(error, "rename", "renameat"),),
            unjudged="the destination takes nothing",
        )
    yield Cell(
        "seccomp/EAGAIN-threads-after",
        "ordinary.alone",
        after_start=(steps.refused("EAGAIN", "clone", "clone3"),),
    )


def _places() -> Iterator[Cell]:
    yield Cell(
        "place/no-proc",
        "ordinary.with_fork",
        before_exec=(steps.no_proc(),),
        is_native=False,
        is_quick=True,
    )
    yield Cell("place/no-proc-late", "ordinary.with_fork", after_start=(steps.no_proc(),))
    yield Cell(
        "place/read-only",
        "ordinary.with_fork",
        before_exec=(steps.read_only("profiles"),),
        is_quick=True,
    )
    yield Cell(
        "place/read-only-all",
        "ordinary.with_fork",
        before_exec=(steps.read_only(),),
        unjudged="the destination takes nothing",
    )
    first = (steps.first_process(),)
    yield Cell("place/pid-1", "ordinary.as_first_process", before_exec=first, is_quick=True)
    for exit_name in ("returns", "daemon_threads"):
        yield Cell(
            f"place/pid-1-{exit_name}", "exits.run", (exit_name,), before_exec=first, stops=False
        )
    for with_python in (False, True):
        yield Cell(
            f"place/dlopen-{'python' if with_python else 'native'}-threads",
            "stacks.native_threads",
            (with_python,),
            in_host=True,
            is_quick=with_python,
        )
    yield Cell("place/dlopen-fork", "ordinary.with_fork", in_host=True)
    yield Cell("place/dlopen-exit", "exits.run", ("returns",), in_host=True, stops=False)
    yield Cell("place/native-threads", "stacks.native_threads", (True,))
    yield Cell(
        "time/leaps", "ordinary.clock_leaps", before_exec=(steps.preloaded("step"),), is_quick=True
    )
    yield Cell("time/ahead", "ordinary.with_fork", before_exec=(steps.later_monotonic(),))
    yield Cell("time/stopped", "ordinary.stopped", is_quick=True)


def _threads() -> Iterator[Cell]:
    for count in (1, 2, 64, 4000):
        yield Cell(
            f"threads/{count}",
            "ordinary.many",
            (count,),
            is_quick=count == 64,
            timeout_s=90 if count > 1000 else 30,
        )


def _lives() -> Iterator[Cell]:
    for form in FORKS:
        yield Cell(f"fork/{form}", "forks.run", (form,), options=LONG, is_quick=form in QUICK_FORKS)
    for form in ("main", "thread", "failing"):
        yield Cell(
            f"exec/{form}",
            "forks.execute",
            (form,),
            unjudged="" if form == "failing" else GONE,
            is_quick=form == "main",
        )
    for form, unjudged in EXITS.items():
        yield Cell(
            f"exit/{form}",
            "exits.run",
            (form,),
            unjudged=unjudged,
            stops=False,
            options=LONG if form in LONG_EXITS else {},
            is_quick=form in QUICK_EXITS,
        )


CELLS: tuple[Cell, ...] = (
    *_limits(),
    *_signals(),
    *_stacks(),
    *_sandboxes(),
    *_places(),
    *_threads(),
    *_lives(),
)
NAMED = {cell.name: cell for cell in CELLS}
