"""What an environment consists of: each step enters it, and proves that it really holds."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cruel import seccomp

MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWTIME = 0x20000, 0x20000000, 0x80
TIME_AHEAD_S = 300_000_000


class NotRun(Exception):  # noqa: N818 - not an error
    """The machine, or the right of the user, does not allow this environment."""


@dataclass(frozen=True)
class Step:
    """One property of an environment."""

    enter: Callable[[], object]
    holds: Callable[[], bool] = lambda: True


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> int:
    """Call libc.

    Raises:
        NotRun: it failed.
    """
    result: int = getattr(_libc(), name)(*arguments)
    if result == -1:
        raise NotRun(f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


# Limits ---------------------------------------------------------------------------------------


def limit(name: str, value: int) -> Step:
    """Set RLIMIT_name."""
    which = getattr(resource, f"RLIMIT_{name}")
    return Step(
        lambda: resource.setrlimit(which, (value, value)),
        lambda: resource.getrlimit(which)[0] == value,
    )


def address_space(mebibytes: int) -> Step:
    """Allow so much more address space than is used now."""

    def enter() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + (mebibytes << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    def holds() -> bool:
        try:
            mmap.mmap(-1, (mebibytes + 1) << 20).close()
        except OSError:
            return True
        return False

    return Step(enter, holds)


def open_files(free: int) -> Step:
    """Allow so many more descriptors than are open now."""

    def enter() -> None:
        # The directory that is read is among them, and is closed again.
        most = max(int(name) for name in os.listdir("/proc/self/fd")) + free
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    def holds() -> bool:
        taken: list[int] = []
        try:
            while len(taken) <= free:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            return True
        finally:
            for descriptor in taken:
                os.close(descriptor)
        return False

    return Step(enter, holds)


def other_user() -> Step:
    """Become a user who has no other process, with root's access to files alone.

    The kernel counts processes and signals of a user, and does not bound root's processes.
    """
    override = 1  # CAP_DAC_OVERRIDE

    def enter() -> None:
        if os.geteuid() != 0:
            raise NotRun("takes root: another user without processes")
        uid = 200_000 + os.getpid()
        _call("prctl", 8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        only = 1 << override
        head = struct.pack("Ii", 0x20080522, 0)
        _call("capset", head, struct.pack("6I", only, only, only, 0, 0, 0))
        _call("prctl", 47, 2, override, 0, 0)  # PR_CAP_AMBIENT, raise

    return Step(enter, lambda: os.getuid() >= 200_000)


# Signals --------------------------------------------------------------------------------------


def blocked() -> Step:
    """Block every signal in this thread."""
    everything = signal.valid_signals()
    unblockable = {signal.SIGKILL, signal.SIGSTOP}
    return Step(
        lambda: signal.pthread_sigmask(signal.SIG_SETMASK, everything),
        lambda: everything - unblockable <= signal.pthread_sigmask(signal.SIG_BLOCK, ()),
    )


# System calls ---------------------------------------------------------------------------------


def refused(error: str, *names: str) -> Step:
    """Refuse system calls."""

    def enter() -> None:
        try:
            seccomp.refuse(names, seccomp.error_named(error))
        except (OSError, KeyError) as problem:
            raise NotRun(f"no filter of system calls: {problem}") from None

    return Step(
        enter,
        lambda: all(seccomp.is_refused(name, seccomp.error_named(error)) for name in names),
    )


# Name spaces ----------------------------------------------------------------------------------


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    _call("mount", source.encode(), target.encode(), kind.encode() if kind else None, flags, None)


def _own_mounts() -> None:
    _call("unshare", CLONE_NEWNS)
    _mount("none", "/", None, MS_REC | MS_PRIVATE)


def no_proc() -> Step:
    """Put an empty directory in the place of /proc."""

    def enter() -> None:
        _own_mounts()
        _mount("none", "/proc", "tmpfs", MS_RDONLY)

    return Step(enter, lambda: os.listdir("/proc") == [])


def read_only(but: str = "") -> Step:
    """Make the tree read-only; ``but`` (below the working directory) stays writable."""

    def enter() -> None:
        here = os.getcwd()
        _own_mounts()
        _mount(here, here, None, MS_BIND)
        writable = f"{here}/{but}" if but else ""
        if writable:
            _mount(writable, writable, None, MS_BIND)
        os.chdir(here)  # into the mount that now lies above
        for line in Path("/proc/self/mounts").read_text().splitlines():
            place = line.split()[1]
            if place != writable and not place.startswith(("/proc", "/sys", "/dev")):
                _mount("none", place, None, MS_REMOUNT | MS_BIND | MS_RDONLY)

    def holds() -> bool:
        for place in (".", "/", "/tmp", "/var/tmp"):
            try:
                os.close(os.open(f"{place}/cruel-{os.getpid()}", os.O_CREAT | os.O_WRONLY))
            except OSError:
                continue
            return False
        return True

    return Step(enter, holds)


def later_monotonic() -> Step:
    """Live in a time name space that is years ahead."""

    def enter() -> None:
        _call("unshare", CLONE_NEWTIME)
        try:
            Path("/proc/self/timens_offsets").write_text(f"monotonic {TIME_AHEAD_S} 0\n")
        except OSError as problem:
            raise NotRun(f"time name space: {problem}") from None

    def holds() -> bool:
        with open("/proc/self/timens_offsets") as offsets:
            return str(TIME_AHEAD_S) in offsets.read()

    return Step(enter, holds)


def first_process() -> Step:
    """Become pid 1 of a name space of processes; the caller waits outside, and ends as it does."""

    def enter() -> None:
        _call("unshare", CLONE_NEWPID | CLONE_NEWNS)
        inside = os.fork()
        if inside == 0:
            _call("prctl", 1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG
            _mount("none", "/", None, MS_REC | MS_PRIVATE)
            _mount("proc", "/proc", "proc", 0)
            return
        status = os.waitpid(inside, 0)[1]
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            signal.signal(-code, signal.SIG_DFL) if -code not in (9, 19) else None
            os.kill(os.getpid(), -code)
        os._exit(code)

    return Step(enter, lambda: os.getpid() == 1)


def preloaded(library: str) -> Step:
    """Load a library before all others; one of those that the harness compiles."""

    def enter() -> None:
        os.environ["LD_PRELOAD"] = os.environ["CRUEL_LIBRARIES"] + f"/{library}.so"

    return Step(enter, lambda: hasattr(ctypes.CDLL(None), "cruel_step"))


# Checks ---------------------------------------------------------------------------------------


def only_on(versions: tuple[int, int]) -> Step:
    """Need this version of CPython or a later one."""

    def enter() -> None:
        if sys.version_info[:2] < versions:
            raise NotRun(f"CPython {versions[0]}.{versions[1]}")

    return Step(enter)


def only_machine(*machines: str) -> Step:
    """Need one of these machines."""

    def enter() -> None:
        if platform.machine() not in machines:
            raise NotRun(f"machine {platform.machine()}")

    return Step(enter)
