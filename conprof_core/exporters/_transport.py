"""HTTP over TCP, TLS and unix sockets within a total time: an adapter for ``requests``.

``requests`` bounds each read, so an answer that trickles in could hold an upload for ever. Here a
request carries one deadline and every wait of its socket is cut to what is left of it. Only the
resolution of a host name cannot be bounded this way.

Imported with the first upload, since it imports ``requests``.
"""

from __future__ import annotations

import errno
import socket
import ssl
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager

from conprof_core._limits import MAX_RESPONSE_BYTES
from conprof_core._threads import original

__all__ = ["Answer", "post"]

_SMALLEST_WAIT_S = 0.001


class Answer:
    """What came back: status, reason, ``Retry-After`` and the beginning of the body."""

    def __init__(self, status: int, reason: str, retry_after: str | None, data: bytes) -> None:
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        self.data = data

    @property
    def body(self) -> str:
        """Return the beginning of the body as text."""
        return self.data.decode("utf-8", "replace")


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return max(left, _SMALLEST_WAIT_S)


# gevent's own need a hub, and for names a thread, which cannot be had while the interpreter shuts
# down; uploads have a thread of the operating system to themselves.
_getaddrinfo = original("socket", "getaddrinfo")

if TYPE_CHECKING:
    _OriginalSocket = socket.socket
else:
    _OriginalSocket = original("socket", "socket")


class _Socket(_OriginalSocket):
    """A socket whose every wait ends at ``deadline``, whatever timeout others set on it."""

    deadline = 0.0

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_left(self.deadline))
        return super().recv_into(*args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        self.settimeout(_left(self.deadline))
        return super().sendall(*args, **kwargs)


class _TLSSocket(ssl.SSLSocket):
    """The same for TLS. The deadline comes with the context, which serves one request only."""

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_left(self.context.deadline))  # type: ignore[attr-defined]
        return super().recv_into(*args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        self.settimeout(_left(self.context.deadline))  # type: ignore[attr-defined]
        return super().sendall(*args, **kwargs)


class _TLSContext(ssl.SSLContext):
    deadline = 0.0
    sslsocket_class = _TLSSocket


def _connect(family: int, address: Any, deadline: float) -> _Socket:
    made = _Socket(family, socket.SOCK_STREAM)
    made.deadline = deadline
    try:
        made.settimeout(_left(deadline))
        made.connect(address)
    except BaseException:
        made.close()
        raise
    return made


def _connect_tcp(host: str, port: int, deadline: float) -> _Socket:
    """Try each address of the host in turn; what is left of the time is shared evenly."""
    found = _getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    error: OSError = ConnectionError(f"{host} has no address")
    for index, (family, _, _, _, address) in enumerate(found):
        share = _left(deadline) / (len(found) - index)
        try:
            made = _connect(family, address, time.monotonic() + share)
        except OSError as failed:
            error = failed
        else:
            made.deadline = deadline
            try:
                made.settimeout(_left(deadline))  # a TLS handshake waits as long as is left in all
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except BaseException:
                made.close()
                raise
            return made
    raise error


def _connection_classes(
    deadline: float, unix_path: str | None
) -> tuple[type[HTTPConnection], type[HTTPSConnection]]:
    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            try:
                if unix_path is not None:
                    return _connect(socket.AF_UNIX, unix_path, deadline)
                return _connect_tcp(self.host, self.port or 80, deadline)
            except (ConnectionResetError, BrokenPipeError) as error:
                # As when a server ends while it has us in its backlog. urllib3 would take it for an
                # answer that came before the end of the request, and go on without a socket.
                raise ConnectionAbortedError(errno.ECONNABORTED, error.strerror) from error

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _connect_tcp(self.host, self.port or 443, deadline)

    return Plain, Secure


class _Adapter(HTTPAdapter):
    """Serves one request: its connections carry that request's deadline, and none is kept."""

    def __init__(self, deadline: float, unix_path: str | None) -> None:
        self._deadline = deadline
        self._unix_path = unix_path
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        context = _TLSContext(ssl.PROTOCOL_TLS_CLIENT)
        context.deadline = self._deadline
        plain, secure = _connection_classes(self._deadline, self._unix_path)

        class Pool(HTTPConnectionPool):
            ConnectionCls = plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = secure

        self.poolmanager = PoolManager(num_pools=1, maxsize=1, ssl_context=context)
        self.poolmanager.pool_classes_by_scheme = {"http": Pool, "https": SecurePool}


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    timeout_s: float,
    auth: tuple[str, str] | None = None,
    unix_path: str | None = None,
    verify: str | bool = True,
) -> Answer:
    """Send one POST on a connection of its own and return the answer.

    Proxies, ``.netrc`` and other settings for the application's own traffic are not used
    (``trust_env``), and redirects are not followed: a profile goes where it was sent, or nowhere.

    Args:
        timeout_s: seconds for everything: connect, TLS, send, answer.
        unix_path: path of a unix socket to use in place of the URL's host.
        verify: as in ``requests``.

    Raises:
        requests.RequestException, OSError: no answer within the time.
    """
    deadline = time.monotonic() + timeout_s
    with requests.Session() as session:
        session.trust_env = False
        adapter = _Adapter(deadline, unix_path)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        with session.post(
            url,
            data=body,
            headers={**headers, "Connection": "close", "Accept-Encoding": "identity"},
            auth=auth,
            timeout=timeout_s,
            verify=verify,
            allow_redirects=False,
            stream=True,
        ) as response:
            return Answer(
                response.status_code,
                str(response.reason or ""),
                response.headers.get("Retry-After"),
                _beginning(response),
            )


def _beginning(response: requests.Response) -> bytes:
    """Return the first bytes of the body; the status alone decides, so trouble here is none."""
    try:
        data: bytes = response.raw.read(MAX_RESPONSE_BYTES) or b""
    except Exception:
        return b""
    return data
