"""Filters of system calls: refuse some with an errno, let all others pass."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

# Numbers on x86-64 and ARM64; None: the machine has no such call.
NUMBERS = {
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "clone": (56, 220),
    "clone3": (435, 435),
    "fsync": (74, 82),
    "getdents64": (217, 61),
    "getrandom": (318, 278),
    "getrusage": (98, 165),
    "gettid": (186, 178),
    "madvise": (28, 233),
    "membarrier": (324, 283),
    "prctl": (157, 167),
    "process_vm_readv": (310, 270),
    "rename": (82, None),
    "renameat": (264, 38),
    "rt_sigaction": (13, 134),
    "rt_sigtimedwait": (128, 137),
    "rt_tgsigqueueinfo": (297, 240),
    "sched_getaffinity": (204, 123),
    "sched_yield": (24, 124),
    "sigaltstack": (131, 132),
    "sysinfo": (99, 179),
    "tgkill": (234, 131),
    "timer_create": (222, 107),
    "timer_delete": (226, 111),
    "timer_getoverrun": (225, 109),
    "timer_gettime": (224, 108),
    "timer_settime": (223, 110),
    "uname": (63, 160),
    "seccomp": (317, 277),
}
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
# Asking for it is a system call too, which may be refused by now.
_MACHINE = os.environ.get("CRUEL_MACHINE") or platform.machine()
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _GREATER, _RETURN = 0x20, 0x15, 0x25, 0x06
_SET_MODE_FILTER, _TSYNC = 1, 1
_SET_NO_NEW_PRIVS = 38

# A CPU clock of a thread: the caller's own (3), or another's, which has a negative number.
THREAD_CLOCKS = "clock_gettime of threads"


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def number(name: str) -> int | None:
    """Return the number of a call on this machine."""
    column = _ARCHITECTURES.get(_MACHINE, (None,))[0]
    return None if column is None else NUMBERS[name][column]


def _instruction(code: int, value: int, when_true: int = 0, when_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, when_true, when_false, value)


def refuse(names: tuple[str, ...], error: int) -> None:
    """Refuse these calls from now on, in all threads of the process and what it executes.

    Raises:
        OSError: no such filter can be had here.
    """
    column, architecture = _ARCHITECTURES[_MACHINE]
    answer = _instruction(_RETURN, _ERRNO | error)
    lines = [
        _instruction(_LOAD, 4),
        _instruction(_EQUAL, architecture, 1, 0),
        _instruction(_RETURN, _ALLOW),
        _instruction(_LOAD, 0),
    ]
    for name in names:
        if name == THREAD_CLOCKS:
            lines += [
                _instruction(_EQUAL, NUMBERS["clock_gettime"][column] or 0, 0, 5),
                _instruction(_LOAD, 16),  # its first argument
                _instruction(_EQUAL, 3, 1, 0),
                _instruction(_GREATER, 0x7FFFFFFF, 0, 1),
                answer,
                _instruction(_LOAD, 0),
            ]
        elif (code := NUMBERS[name][column]) is not None:
            lines += [_instruction(_EQUAL, code, 0, 1), answer]
    lines.append(_instruction(_RETURN, _ALLOW))
    program = _Program(len(lines), b"".join(lines))
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0 and libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if libc.syscall(number("seccomp"), _SET_MODE_FILTER, _TSYNC, ctypes.byref(program)) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def is_refused(name: str, error: int) -> bool:
    """Whether this call is answered by that error here."""
    libc = ctypes.CDLL(None, use_errno=True)
    if name == THREAD_CLOCKS:
        room = ctypes.create_string_buffer(16)
        status = libc.syscall(number("clock_gettime"), 3, room)
    elif number(name) is None:
        return True
    else:
        # Arguments that no call likes: where it is not refused, it fails by another errno.
        status = libc.syscall(number(name), -1, -1, -1, -1)
    return status == -1 and ctypes.get_errno() == error


def error_named(name: str) -> int:
    """Return the number of EPERM and such."""
    return getattr(errno, name)
