"""Programs that do to all signals what programs may do."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import threading
import time

from cruel.programs import ordinary
from cruel.report import burn, say

NEVER = {signal.SIGKILL, signal.SIGSTOP}


def blocked_here() -> None:
    """Blocks everything in the main thread, after the start."""
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    ordinary.threads(2)
    say("pending", sorted(signal.sigpending()))


def pending() -> None:
    """Says which signals wait, after ordinary work."""
    ordinary.with_fork()
    say("pending", sorted(signal.sigpending()))


def blocked_in_thread() -> None:
    """Blocks everything in one thread, which does most of the work."""

    def work() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        burn(0.5)
        say("pending", sorted(signal.sigpending()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    ordinary.alone()


def handled() -> None:
    """Handles every signal: the handler sees those that somebody sent."""
    seen: dict[int, int] = {}
    for number in signal.valid_signals() - NEVER:
        signal.signal(number, lambda got, _: seen.update({got: seen.get(got, 0) + 1}))
    _use_signals(seen)


def handled_by_c() -> None:
    """Gives every signal that libc lets it a handler in C, which does nothing."""
    libc = ctypes.CDLL(None)
    empty = ctypes.CDLL(None).getpid  # takes what it is given and does nothing
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    for number in set(range(1, 65)) - {int(n) for n in NEVER}:
        libc.signal(number, ctypes.cast(empty, ctypes.c_void_p))
    _use_signals({})


def reset() -> None:
    """Gives every signal its default action."""
    for number in signal.valid_signals() - NEVER - {signal.SIGCHLD}:
        signal.signal(number, signal.SIG_DFL)
    libc = ctypes.CDLL(None)
    for number in set(range(1, 65)) - {int(n) for n in NEVER}:
        libc.signal(number, None)
    ordinary.with_fork()


def ignored() -> None:
    """Ignores every signal."""
    for number in signal.valid_signals() - NEVER - {signal.SIGCHLD}:
        signal.signal(number, signal.SIG_IGN)
    ordinary.with_fork()


def _use_signals(seen: dict[int, int]) -> None:
    burn(0.4)
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.raise_signal(signal.SIGRTMIN + 2)
    ordinary.threads(2)
    say("handled", sorted(seen.items()))


def taken(how: str) -> None:
    """Blocks every signal and takes them one by one, as daemons do."""
    everything = signal.valid_signals()
    signal.pthread_sigmask(signal.SIG_BLOCK, everything)
    reader = _descriptor_for(everything) if how == "signalfd" else -1
    got = []
    for _ in range(12):
        burn(0.03)
        sender = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1))
        sender.start()
        if how == "sigwait":
            got.append(int(signal.sigwait(everything)))
        elif how == "sigtimedwait":
            info = signal.sigtimedwait(everything, 3)
            got.append(info.si_signo if info else 0)
        else:
            ready = select.select([reader], [], [], 3)[0]
            got.append(int.from_bytes(os.read(reader, 128)[:4], "little") if ready else 0)
        sender.join()
    say("took", got)
    ordinary.threads(2)


def _descriptor_for(signals: set[signal.Signals]) -> int:
    """Return a signalfd."""
    libc = ctypes.CDLL(None)
    room = ctypes.create_string_buffer(128)
    libc.sigemptyset(room)
    for number in signals:
        libc.sigaddset(room, int(number))
    return int(libc.signalfd(-1, room, 0))


def jumping() -> None:
    """A library's handler of another signal leaves by siglongjmp."""
    library = ctypes.PyDLL(os.environ["CRUEL_LIBRARIES"] + "/jump.so")

    def deep(frames: int) -> int:
        return deep(frames - 1) if frames else int(library.cruel_jump(1000, 300))

    say("thrown", deep(150))
    ordinary.with_fork()
    time.sleep(0.1)


def interrupted_calls() -> None:
    """System calls that a signal may cut short are not, but by the signals of the program."""
    reader, writer = os.pipe()
    threading.Timer(0.5, os.write, (writer, b"x")).start()
    spinner = threading.Thread(target=burn, args=(0.4,))
    spinner.start()
    libc = ctypes.CDLL(None, use_errno=True)
    room = ctypes.create_string_buffer(1)
    say("read", libc.read(reader, room, 1), room.raw)
    libc.usleep(1000)
    spinner.join()
    ordinary.threads(2)


def cancelled() -> None:
    """Cancels a thread by pthread_cancel, which libc does by a signal of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    for _ in range(3):
        thread, result = ctypes.c_ulong(), ctypes.c_void_p()
        pause = ctypes.cast(libc.pause, ctypes.c_void_p)
        libc.pthread_create(ctypes.byref(thread), None, pause, None)
        burn(0.1)
        libc.pthread_cancel(thread)
        libc.pthread_join(thread, ctypes.byref(result))
        say("cancelled", result.value == ctypes.c_void_p(-1).value)
    ordinary.with_fork()
