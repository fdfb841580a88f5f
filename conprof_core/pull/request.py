"""One request as the handler sees it, whatever server and framework it came through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

__all__ = ["PREFIX", "Request"]

PREFIX: Final = "/debug/pprof"


class Request(NamedTuple):
    """What matters of a request.

    Attributes:
        method: of HTTP, in capitals.
        path: below ``PREFIX``: empty, ``/`` or ``/profile``; ``None`` for any other request.
        query: not decoded.
        headers: by lower-case name.
        peer: address of the other side, empty when it has none, as on a unix socket.
        http_version: such as ``1.1``; empty when unknown.
        can_wait: whether the server serves other requests while this one waits.
    """

    method: str
    path: str | None
    query: str
    headers: Mapping[str, str]
    peer: str
    http_version: str
    can_wait: bool

    @classmethod
    def of_scope(cls, scope: Mapping[str, Any]) -> Request:
        """Return the request of an ASGI scope of type ``http``."""
        client = scope.get("client")
        return cls(
            scope["method"],
            path_of_scope(scope),
            scope.get("query_string", b"").decode("latin-1"),
            {
                name.decode("latin-1").lower(): value.decode("latin-1")
                for name, value in scope.get("headers", ())
            },
            str(client[0] or "") if client else "",
            str(scope.get("http_version", "")),
            can_wait=True,
        )

    @classmethod
    def of_environ(cls, environ: Mapping[str, Any]) -> Request:
        """Return the request of a WSGI environment, which Django's ``request.META`` is, too."""
        return cls(
            environ["REQUEST_METHOD"],
            below_prefix(environ.get("PATH_INFO", "")),
            environ.get("QUERY_STRING", ""),
            {
                name[5:].replace("_", "-").lower(): str(value)
                for name, value in environ.items()
                if name.startswith("HTTP_")
            },
            environ.get("REMOTE_ADDR", ""),
            environ.get("SERVER_PROTOCOL", "").removeprefix("HTTP/"),
            can_wait=bool(environ.get("wsgi.multithread")),
        )


def path_of_scope(scope: Mapping[str, Any]) -> str | None:
    """Return the path of a scope below ``PREFIX``; ``None`` when it is not there."""
    # Where the application is mounted, or the server was told a root path, that comes first.
    return below_prefix(scope["path"].removeprefix(scope.get("root_path", "")))


def below_prefix(path: str) -> str | None:
    """Return the rest of a path below ``PREFIX``; ``None`` when it is not there."""
    if not path.startswith(PREFIX):
        return None
    rest = path[len(PREFIX) :]
    return rest if not rest or rest[0] == "/" else None
