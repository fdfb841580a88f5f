"""Who may talk to the agent: the outermost layer, before any route sees a request.

Without a token the agent listens on loopback only, where the danger is a web page in the user's own
browser: a foreign ``Host`` (DNS rebinding) and a foreign ``Origin`` are refused. With a token every
request must carry it, as Bearer, as the password of Basic (which probes can send), or in the cookie
that opening ``/?token=…`` once sets.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from conprof_core._loopback import is_loopback

__all__ = ["COOKIE", "Guard", "is_loopback"]

COOKIE: Final = "conprof_token"
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_HEADERS: Final = (
    ("Content-Security-Policy", _POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
)


class Guard:
    """ASGI middleware. A unix socket needs no token: its file's permissions decide."""

    def __init__(self, app: ASGIApp, token: str | None = None) -> None:
        self._app = app
        self._token = token.encode() if token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS:
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        server = scope.get("server")
        is_unix = server is not None and server[1] is None
        origin = headers.get("origin")
        host = headers.get("host", "")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return _no("this address answers only its own pages", 403)
        if self._token is None:
            name = urlsplit(f"//{host}").hostname if host else None
            if not is_unix and (name is None or not is_loopback(name)):
                return _no("the Host header does not name this machine", 403)
            return None
        if is_unix:
            return None
        return self._check_token(scope, headers)

    def _check_token(self, scope: Scope, headers: Headers) -> Response | None:
        assert self._token is not None
        for candidate in _candidates(headers):
            if hmac.compare_digest(candidate, self._token):
                return None
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        offered = query.pop("token", [""])[-1]
        if scope["method"] == "GET" and hmac.compare_digest(offered.encode(), self._token):
            # A one-time exchange, so that the token does not stay in the address bar and history.
            rest = urlencode(query, doseq=True)
            path = "/" + scope["path"].lstrip("/")
            answer = RedirectResponse(f"{path}?{rest}" if rest else path, 303)
            answer.set_cookie(COOKIE, offered, httponly=True, samesite="strict", path="/")
            return answer
        return _no(
            "this agent wants its token: open /?token=…, or send it as Bearer or Basic password",
            401,
            {"WWW-Authenticate": 'Bearer realm="conprof", Basic realm="conprof"'},
        )


def _candidates(headers: Headers) -> list[bytes]:
    found: list[bytes] = []
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        found.append(value.strip().encode("utf-8", "replace"))
    elif scheme.lower() == "basic":
        try:
            found.append(base64.b64decode(value).partition(b":")[2])
        except (binascii.Error, ValueError):
            pass
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        morsel = None
    if morsel is not None:
        found.append(morsel.value.encode("utf-8", "replace"))
    return found


def _no(reason: str, status: int, headers: dict[str, str] | None = None) -> Response:
    return PlainTextResponse(f"{reason}\n", status, headers)
