"""Signals as conprof's timers send them, from another process: more than the kernel's tick allows.

What a timer's signal carries is in /proc/PID/timers; ``rt_tgsigqueueinfo`` lets a process say it in
the kernel's place. Sent to threads that run or are ready to, as those of a CPU clock are.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import struct
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

__all__ = ["Sender"]

SI_TIMER = -2
SYS_RT_TGSIGQUEUEINFO = {"x86_64": 297, "aarch64": 240}.get(platform.machine())
LOOK_EVERY_S = 0.1
_TIMER = re.compile(r"ID: (\d+)\nsignal: (\d+)/([0-9a-f]+)\nnotify: signal/tid\.(\d+)\n")
_LIBC = ctypes.CDLL(None, use_errno=True)


class _Target(NamedTuple):
    pid: int
    tid: int
    number: int
    info: bytes  # a siginfo_t


class Sender:
    """Sends to every thread of a session that has a timer, until the block ends.

    Attributes:
        sent: how many signals.
    """

    def __init__(self, session: int, rate: int) -> None:
        self.sent = 0
        self._session = session
        self._rate = rate
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        if self._rate and SYS_RT_TGSIGQUEUEINFO is not None:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        targets: list[_Target] = []
        looked = 0.0
        while not self._is_over.wait(1 / self._rate):
            if time.monotonic() > looked + LOOK_EVERY_S:
                targets, looked = _targets(self._session), time.monotonic()
            for target in targets:
                if _is_ready(target) and _send(target):
                    self.sent += 1


def _targets(session: int) -> list[_Target]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or _session_of(int(entry.name)) != session:
            continue
        try:
            timers = Path(entry, "timers").read_text()
        except OSError:
            continue
        for timer, number, value, tid in _TIMER.findall(timers):
            # si_signo, si_errno, si_code, then the timer, its overruns and its value.
            info = struct.pack(
                "=iiiiiiQ", int(number), 0, SI_TIMER, 0, int(timer), 0, int(value, 16)
            )
            found.append(_Target(int(entry.name), int(tid), int(number), info.ljust(128, b"\0")))
    return found


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1


def _is_ready(target: _Target) -> bool:
    try:
        stat = Path(f"/proc/{target.pid}/task/{target.tid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] == "R"


def _send(target: _Target) -> bool:
    return bool(
        _LIBC.syscall(
            ctypes.c_long(SYS_RT_TGSIGQUEUEINFO or -1),
            ctypes.c_long(target.pid),
            ctypes.c_long(target.tid),
            ctypes.c_long(target.number),
            target.info,
        )
        == 0
    )
