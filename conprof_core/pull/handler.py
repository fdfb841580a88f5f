"""From a request to an answer; waiting is the caller's, since servers differ in how it is done."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final

from conprof_core import _log
from conprof_core._cuts import Unreadable
from conprof_core._turns import ShortTurns
from conprof_core.pull import access, answer, parameters
from conprof_core.pull.answer import Answer, Failed, refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from conprof_core import Config
    from conprof_core.pull.request import Request
    from conprof_core.pull.window_profile import Readable

__all__ = ["Pull", "Span"]

_DEFAULT_S: Final = 30.0
_CANNOT_WAIT: Final = (
    "this server process does one request at a time: a profile of its next seconds would keep it "
    "from working, and show nothing. Give it threads (gunicorn --threads 4)"
)


class Span:
    """A profile whose time must pass before it can be answered.

    Attributes:
        seconds: how long.
    """

    def __init__(self, profile: Readable, seconds: float) -> None:
        self._profile = profile
        self.seconds = seconds

    def begin(self) -> Answer | None:
        """Begin now. An answer means that nothing has begun."""
        return _safely(self._profile.begin)

    def end(self) -> Answer:
        """End now, and return the answer."""
        found = _safely(self._profile.end)
        assert found is not None, "a profile answers"
        return found

    def abandon(self) -> None:
        """End without an answer; harmless when it has ended. Never waits, never raises."""
        self._profile.abandon()


class Pull:
    """Answers requests below ``/debug/pprof`` for one configuration.

    Nothing here raises into the server, and nothing is kept between requests: it may be made before
    a fork, and used in any thread.

    Args:
        config: whose ``pull_token`` says who may read.
    """

    def __init__(self, config: Config) -> None:
        self._token = config.pull_token

    def answer(self, request: Request) -> Answer:
        """Answer, and block the thread (with gevent the greenlet) for as long as it takes."""
        refused = self.refused(request)
        if refused is not None:
            return refused
        found = self.prepared(request)
        if isinstance(found, Answer):
            return found
        try:
            failed = found.begin()
            if failed is not None:
                return failed
            time.sleep(found.seconds)
            return found.end()
        finally:
            found.abandon()

    async def answer_async(
        self, request: Request, gone: Callable[[], Awaitable[object]] | None = None
    ) -> Answer | None:
        """Answer on an asyncio loop, which is never blocked.

        Args:
            request: what is asked.
            gone: awaited while time passes; when it returns, whoever asked has gone, and the result
                is ``None``.
        """
        from conprof_core.pull.cooperative import answer_async

        return await answer_async(self, request, gone)

    # The steps, for those who wait in their own way -----------------------------------------------

    def refused(self, request: Request) -> Answer | None:
        """Return the answer to who may not ask, and to what is no request of ours. At once."""
        if request.path is None:
            return refusal(404, "Not found")
        refused = access.refused(request, self._token)
        if refused is not None:
            return refused
        takes_post = request.path in ("/symbol", "/control")
        if request.method != "GET" and not (takes_post and request.method == "POST"):
            allowed = "GET, POST" if takes_post else "GET"
            return refusal(405, "Method not allowed", ("Allow", allowed))
        return None

    def prepared(self, request: Request) -> Answer | Span:
        """Return the answer or, of a profile over time, what must be begun. Takes milliseconds."""
        spans: list[Span] = []
        found = _safely(lambda: self._find(request, spans))
        if found is not None:
            return found
        return spans[0]

    def _find(self, request: Request, spans: list[Span]) -> Answer | None:
        path = request.path
        if path == "":
            return answer.moved("pprof/")
        assert path is not None, "others were refused"
        name = path[1:]
        if name == "":
            from conprof_core.pull.index import index

            return answer.page(index())
        if name == "cmdline":
            return answer.text("\0".join(getattr(sys, "orig_argv", None) or sys.argv))
        if name == "symbol":
            return answer.text("num_symbols: 0\n")  # there are no addresses: names are in place
        if name == "control":
            from conprof_core.pull.control import control

            return control(request, has_token=self._token is not None)
        from conprof_core.pull.catalog import open_profile

        entry, profile = open_profile(name)
        seconds, debug = parameters.read(request.query)
        if seconds is None and not entry.takes_time:
            return profile.now(debug)
        if seconds is not None and debug and not entry.takes_time:
            return refusal(400, '"seconds" and "debug" do not go together')
        if not request.can_wait:
            return refusal(503, _CANNOT_WAIT)
        spans.append(Span(profile, _DEFAULT_S if seconds is None else seconds))
        return None


def _safely(work: Callable[[], Answer | None]) -> Answer | None:
    """Do a step; whatever goes wrong becomes an answer."""
    with _log.guard("pull"):
        try:
            with ShortTurns():
                return work()
        except Failed as failed:
            return failed.answer
        except Unreadable as unreadable:
            return refusal(503, str(unreadable))
    return refusal(500, "an internal error of conprof; its log says more")
