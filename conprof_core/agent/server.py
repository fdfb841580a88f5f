"""Life of the agent: sockets, store, writer, uvicorn, in the order that start and end need."""

from __future__ import annotations

import logging
import os
import signal
import socket
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from conprof_core.agent.api import create_app
from conprof_core.agent.errors import AgentError
from conprof_core.agent.security import is_loopback
from conprof_core.agent.store import Store
from conprof_core.agent.writer import Writer

__all__ = ["Options", "Running", "data_directory", "serve"]

_BACKLOG = 512
_log = logging.getLogger("conprof.agent")


@dataclass(frozen=True)
class Options:
    """What ``conprof agent`` is told.

    Attributes:
        listen: host and port; port 0 takes a free one.
        unix: path of a unix socket to listen on as well, or ``None``.
        token: wanted from everyone who comes by TCP, or ``None``.
    """

    data: Path
    listen: tuple[str, int] = ("127.0.0.1", 8307)
    unix: Path | None = None
    token: str | None = None
    keep_days: int = 30
    max_bytes: int = 10 << 30


def data_directory() -> Path:
    """Return where data goes unless told: the user's data directory."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Application Support")
    else:
        base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "conprof"


class Running:
    """An opened agent: sockets are bound and the store is owned, nothing is served yet.

    Attributes:
        url: address of the viewer.
    """

    def __init__(self, options: Options) -> None:
        """Open everything, or nothing.

        Raises:
            AgentError: the address or the directory cannot be used, or needs a token.
        """
        host, port = options.listen
        if not is_loopback(host) and not options.token:
            raise AgentError(
                f"{host} can be reached from other machines: choose a token with --token, "
                "or listen on 127.0.0.1"
            )
        self.sockets = [_tcp(host, port)]
        self._unix = options.unix
        try:
            if options.unix is not None:
                self.sockets.append(_unix(options.unix))
            self.store = Store(
                options.data, keep_days=options.keep_days, max_bytes=options.max_bytes
            )
        except BaseException:
            self._close_sockets()
            raise
        self.writer = Writer(self.store)
        bound = self.sockets[0].getsockname()
        shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        self.url = f"http://{shown}:{bound[1]}/"
        self.store.lock.describe(self.url)
        config = uvicorn.Config(
            create_app(self.store, self.writer, options.token),
            log_config=None,
            access_log=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            server_header=False,
            date_header=False,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=5,
            h11_max_incomplete_event_size=64 << 10,
        )
        self.server = uvicorn.Server(config)

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM, then close everything."""
        # uvicorn raises the signal again when it has ended, under the handlers found here: with the
        # default ones the process would be gone before it closed anything.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        try:
            self.server.run(sockets=self.sockets)
        finally:
            self.close()

    def close(self) -> None:
        """Store what was taken, and give directory and sockets up."""
        self.writer.close()
        self.store.close()
        self._close_sockets()

    def _close_sockets(self) -> None:
        for each in self.sockets:
            each.close()
        if self._unix is not None and len(self.sockets) > 1:
            self._unix.unlink(missing_ok=True)


def serve(options: Options) -> Running:
    """Return an agent ready to ``run``; see ``Running``."""
    return Running(options)


def _tcp(host: str, port: int) -> socket.socket:
    try:
        info = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(info[0], socket.SOCK_STREAM)
        if sys.platform != "win32":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(info[4])
        bound.listen(_BACKLOG)
    except OSError as error:
        raise AgentError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; "
            "choose another address with --listen"
        ) from None
    return bound


def _unix(path: Path) -> socket.socket:
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()  # its owner is gone
                else:
                    raise AgentError(f"another process listens on {path}")
        bound = socket.socket(socket.AF_UNIX)
        bound.bind(str(path))
        os.chmod(path, 0o660)
        bound.listen(_BACKLOG)
    except OSError as error:
        raise AgentError(f"cannot listen on {path}: {error.strerror or error}") from None
    return bound
