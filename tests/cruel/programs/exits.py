"""Every way to end."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time

from cruel.report import burn, ends, event, say


def returns() -> None:
    """Falls off the end."""


def sys_exit() -> None:
    """Calls sys.exit with a status."""
    sys.exit(3)


def sys_exit_text() -> None:
    """Calls sys.exit with words."""
    sys.exit("words")


def os_exit() -> None:
    """Leaves at once."""
    os._exit(4)


def exception() -> None:
    """Raises."""
    raise ValueError("by intent")


def sigterm() -> None:
    """Dies of SIGTERM."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)


def sigterm_handled() -> None:
    """Handles SIGTERM by leaving."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(6))
    sigterm()


def sigterm_blocked() -> None:
    """Dies of SIGTERM that only another thread lets in."""
    thread = threading.Thread(target=time.sleep, args=(5,), daemon=True)
    thread.start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    sigterm()


def sigint() -> None:
    """Dies of KeyboardInterrupt."""
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)


def sigkill() -> None:
    """Dies of SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)


def abort() -> None:
    """Dies of SIGABRT."""
    os.abort()


def daemon_threads() -> None:
    """Ends while daemon threads work."""
    for _ in range(3):
        threading.Thread(target=_spin_for_ever, daemon=True).start()
    time.sleep(0.05)


def _spin_for_ever() -> None:
    while True:
        sum(range(1000))


def waiting_thread() -> None:
    """Ends once a thread that is no daemon has ended."""
    threading.Thread(target=lambda: (time.sleep(0.3), burn(0.1), say("thread"))).start()


def atexit_raises() -> None:
    """Has an exit hook that raises."""
    atexit.register(lambda: 1 // 0)


def atexit_works() -> None:
    """Works in an exit hook."""
    atexit.register(lambda: (burn(0.1), say("hook")))


def atexit_forks() -> None:
    """Forks in an exit hook."""

    def fork() -> None:
        child = os.fork()
        if child == 0:
            os._exit(9)
        say("hook", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    atexit.register(fork)


def closed_streams() -> None:
    """Closes the standard streams first."""
    for descriptor in (0, 1, 2):
        os.close(descriptor)


def exit_in_thread() -> None:
    """A thread leaves for all."""
    threading.Thread(target=os._exit, args=(8,)).start()
    time.sleep(5)


def run(form: str) -> int | None:
    """Work, past the end of a window, and end in this form."""
    burn(0.3)
    threading.Event().wait(0.8)
    burn(0.1)
    say("ends now")
    ends()
    event("leaves")
    return globals()[form]()
