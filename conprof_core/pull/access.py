"""Who may read: this machine alone or, with a token, whoever knows it.

A proxy on this machine makes everybody a loopback peer. So without a token a request that shows a
sign of having been passed on is refused, whatever its peer; one proxy leaves none, see
``docs/pull.md``. And a web page in a browser on this machine must not reach the handler under a
name of its own (DNS rebinding), so the name that was asked for must be this machine's as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from conprof_core._loopback import is_loopback
from conprof_core.pull.answer import Answer, refusal
from conprof_core.pull.request import Request

__all__ = ["refused"]

_PASSED_ON: Final = frozenset(
    {"forwarded", "via", "x-real-ip", "true-client-ip", "cf-connecting-ip", "x-client-ip"}
)
_REMEDY: Final = "; to read from elsewhere set CONPROF_PULL_TOKEN, and send it as a bearer token"


def refused(request: Request, token: str | None) -> Answer | None:
    """Return why a request is not answered; ``None`` when it is."""
    if token is not None:
        return None if _knows(request, token) else _unauthorized()
    reason = _not_local(request)
    return None if reason is None else refusal(403, reason + _REMEDY)


def _unauthorized() -> Answer:
    return refusal(
        401,
        "the token is wanted: Authorization: Bearer …, or the password of Basic",
        ("WWW-Authenticate", 'Bearer realm="conprof", Basic realm="conprof"'),
    )


def _knows(request: Request, token: str) -> bool:
    import hmac

    wanted = token.encode()
    return any(hmac.compare_digest(offered, wanted) for offered in _offered(request))


def _offered(request: Request) -> Iterator[bytes]:
    """Tokens that a request shows. Not those in its URL, which proxies and logs keep."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        yield value.strip().encode("utf-8", "replace")
    elif scheme.lower() == "basic":  # what `go tool pprof http://:TOKEN@host/…` sends
        import base64

        try:
            yield base64.b64decode(value, validate=True).partition(b":")[2]
        except ValueError:
            pass


def _not_local(request: Request) -> str | None:
    """Return what speaks against a request of this machine."""
    if not is_loopback(request.peer):
        return "only this machine may read"
    if any(name in _PASSED_ON or name.startswith("x-forwarded") for name in request.headers):
        return "this request was passed on by a proxy, so who asks is not known"
    if request.http_version == "1.0":
        # What nginx speaks to those behind it unless told otherwise, and no scraper.
        return "this request has HTTP/1.0, as a proxy's, so who asks is not known"
    if not is_loopback(_host_name(request.headers.get("host", ""))):
        return "the Host header does not name this machine"
    return None


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0]
    return host.partition(":")[0]
