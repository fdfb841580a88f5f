"""Answers ``conprof tasks PID``: a unix socket through which a process tells what it waits for.

Why a socket: a signal would interrupt system calls of the application, and reading the memory of
another process wants privileges. It is there while the profile type ``tasks`` is on, in a
directory that only its user can enter, and on Linux the kernel vouches for who asks. It can be
asked for one thing, and changes nothing.

The thread that listens sleeps in ``poll`` until somebody asks. It ends before a fork, as all
threads of conprof do, and the child opens a socket of its own. ``_socket`` is used because gevent
leaves it as it is.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from typing import Any, Final

from conprof_core import _log
from conprof_core._threads import Thread, original, thread_ident

__all__ = ["TasksSocket", "directories", "path_of"]

_TIMEOUT_S: Final = 5.0
_JOIN_S: Final = 0.1
_REQUEST_BYTES: Final = 64


def directories(uid: int) -> tuple[str, ...]:
    """Return where processes of a user may have their sockets, the preferred place first."""
    own = os.environ.get("XDG_RUNTIME_DIR") if uid == os.getuid() else None
    runtime = own or f"/run/user/{uid}"
    return (f"{runtime}/conprof", f"/tmp/conprof-{uid}")


def path_of(pid: int, directory: str) -> str:
    """Return the path of a process's socket."""
    return f"{directory}/{pid}.tasks"


class TasksSocket:
    """The socket of one session in one process. Opening it may fail; the session goes on without.

    Args:
        use_extension: see ``conprof_core._engine.tasks.snapshot``.
    """

    def __init__(self, *, use_extension: bool) -> None:
        self._use_extension = use_extension
        self._thread: Thread | None = None
        self._listener: Any = None
        self._wake: tuple[int, int] | None = None
        self.path = ""

    def open(self) -> None:
        """Listen, if this system has unix sockets and a safe place for one. Never raises."""
        with _log.guard("tasks socket"):
            import _socket

            family: int | None = getattr(_socket, "AF_UNIX", None)
            directory = None if family is None else _safe_directory()
            if family is None or directory is None:
                _log.log(_log.INFO, "tasks", "no private directory: conprof tasks PID cannot ask")
                return
            path = path_of(os.getpid(), directory)
            if os.path.lexists(path):
                os.unlink(path)  # of a process that had this id before
            listener = _socket.socket(family)
            try:
                listener.bind(path)
                listener.listen(4)
            except OSError:
                listener.close()
                raise
            self._listener, self.path = listener, path
            self._wake = os.pipe()
            self._start()

    def _start(self) -> None:
        listener, wake = self._listener, self._wake
        if listener is None or wake is None or self._thread is not None:
            return
        self._thread = Thread(lambda: self._serve(listener, wake[0]))
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None  # no thread can be had: nobody answers

    def _serve(self, listener: Any, wake: int) -> None:
        with _log.guard("tasks socket"):
            import select

            poll = original("select", "poll")()
            descriptor = listener.fileno()
            if descriptor < 0:
                return  # closed before this thread came to run
            poll.register(descriptor, select.POLLIN)
            poll.register(wake, select.POLLIN)
            while True:
                ready = [fd for fd, _ in poll.poll()]
                if wake in ready:
                    return
                with _log.guard("tasks socket"):
                    self._answer(listener)

    def _answer(self, listener: Any) -> None:
        fd, _ = listener._accept()
        connection = type(listener)(fileno=fd)
        try:
            connection.settimeout(_TIMEOUT_S)
            if not _may_ask(connection):
                return
            # Imported here: most processes are never asked.
            from conprof_core._engine.tasks import snapshot
            from conprof_core._tasks_text import debug2, to_json

            wanted = connection.recv(_REQUEST_BYTES).decode("ascii", "replace").strip()
            taken = snapshot(use_extension=self._use_extension)
            text = json.dumps(to_json(taken)) if wanted == "json" else debug2(taken)
            connection.sendall(text.encode("utf-8", "replace"))
        except OSError:
            pass  # whoever asked has gone
        finally:
            connection.close()

    def _end_thread(self) -> None:
        thread, wake = self._thread, self._wake
        self._thread = None
        if thread is None or wake is None:
            return
        os.write(wake[1], b"x")
        if thread.ident != thread_ident():
            thread.join_os_thread(_JOIN_S)
        os.set_blocking(wake[0], False)
        try:
            os.read(wake[0], 1)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Stop listening and remove the socket. Never raises; harmless when called twice."""
        _log.each("tasks socket", self._end_thread, self._close_files, self._remove)

    def _remove(self) -> None:
        if self.path:
            path, self.path = self.path, ""
            if os.path.lexists(path):
                os.unlink(path)

    def _close_files(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        wake, self._wake = self._wake, None
        for fd in wake or ():
            os.close(fd)

    def prefork(self) -> None:
        """End the thread; the socket stays, and who asks meanwhile waits."""
        with _log.guard("tasks socket"):
            self._end_thread()

    def postfork_parent(self) -> None:
        """Listen again."""
        with _log.guard("tasks socket"):
            self._start()

    def postfork_child(self) -> None:
        """Close what is the parent's, whose socket stays where it is."""
        with _log.guard("tasks socket"):
            self._thread = None
            self.path = ""
            self._close_files()


def _safe_directory() -> str | None:
    """Return a directory of this user that nobody else can enter; made where it is missing."""
    uid = os.getuid()
    for directory in directories(uid):
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            pass
        except OSError:
            continue
        found = os.lstat(directory)
        if stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not found.st_mode & 0o077:
            return directory
    return None


def _may_ask(connection: Any) -> bool:
    """Whether the other side is this user, or root; the directory's mode has to do elsewhere."""
    import _socket

    option = getattr(_socket, "SO_PEERCRED", None)
    if option is None:
        return True
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", connection.getsockopt(_socket.SOL_SOCKET, option, size))
    return uid in (0, os.getuid())
