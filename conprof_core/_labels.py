"""Labels on samples: ``labels()`` for applications, ``request_scope()`` for adapters.

Both put a label cell into the one ContextVar; an engine reads it when it takes a sample. This
module decides, once, whether the cells are the extension's or the pure-Python twin.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar, cast

from conprof_core import _log, _tracking
from conprof_core._limits import MAX_LABEL_VALUE, MAX_LABELS

if TYPE_CHECKING:
    from types import TracebackType

    from conprof_core._cells import LabelCell, LabelSet, context_var, intern_labels
else:
    try:
        from conprof_core._native import LabelCell, LabelSet, context_var, intern_labels
    except ImportError:
        from conprof_core._cells import LabelCell, LabelSet, context_var, intern_labels

__all__ = [
    "RequestScope",
    "context_var",
    "intern_labels",
    "labels",
    "request_scope",
    "settle",
]

_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_MAX_CACHED: Final = 1_024
_MAX_NESTED: Final = 256

_F = TypeVar("_F", bound=Callable[..., Any])


def clean_labels(given: Mapping[str, object]) -> dict[str, str]:
    """Return labels as they travel: valid keys, string values of bounded length.

    A key that is not ``[A-Za-z_][A-Za-z0-9_.]*`` has its other characters replaced by ``_``;
    values are passed through ``str()``; more than ``MAX_LABELS`` are left out. Never raises: a
    value whose ``str()`` fails becomes ``<unprintable>``.
    """
    cleaned: dict[str, str] = {}
    for key, value in given.items():
        if len(cleaned) >= MAX_LABELS:
            break
        if type(key) is not str or _KEY.fullmatch(key) is None:
            key = _clean_key(key)
        if type(value) is not str:
            try:
                value = str(value)
            except Exception:
                value = "<unprintable>"
        if len(value) > MAX_LABEL_VALUE:
            value = value[: MAX_LABEL_VALUE - 1] + "…"
        cleaned[key] = value
    return cleaned


def _clean_key(key: object) -> str:
    try:
        text = re.sub(r"[^A-Za-z0-9_.]", "_", str(key)[:MAX_LABEL_VALUE])
    except Exception:
        return "_unprintable"
    return text if _KEY.match(text) else f"_{text}"


_sets: dict[tuple[tuple[str, str], ...], LabelSet] = {}
"""Sets in use lately: labels of a loop or a route are made once and not for each entry."""


def _known_set(cleaned: Mapping[str, str]) -> LabelSet:
    key = tuple(cleaned.items())
    found = _sets.get(key)
    if found is None:
        if len(_sets) >= _MAX_CACHED:
            _sets.clear()
        found = _sets[key] = intern_labels(key)
    return found


def _set_of(given: Mapping[str, str]) -> LabelSet:
    """Return the set for labels of an adapter, which are strings but may need cleaning."""
    found = _sets.get(tuple(given.items()))
    return _known_set(clean_labels(given)) if found is None else found


_nested: dict[int, list[tuple[LabelCell, LabelSet]]] = {}
"""Id of a provisional cell → the cells entered below it, each with the labels it adds.

They are composed anew when the cell is bound. Bounded both ways: beyond, a nested cell keeps what
it showed when it was entered.
"""


def _merge(outer: LabelSet, own: LabelSet) -> LabelSet:
    return _known_set(dict((*outer.items(), *own.items())[-MAX_LABELS:]))


def _compose(own: LabelSet, outer: LabelCell | None) -> LabelCell:
    """Return a cell that shows ``own`` on top of what ``outer`` shows, now and once it is bound."""
    if outer is None:
        return LabelCell(own)
    below = outer.provisional and _list_below(outer)
    cell = LabelCell(_merge(outer.labels, own), provisional=below is not False)
    if below is not False:
        below.append((cell, own))
    return cell


def _list_below(outer: LabelCell) -> list[tuple[LabelCell, LabelSet]] | Literal[False]:
    below = _nested.get(outer.id)
    if below is None:
        if len(_nested) >= _MAX_CACHED:
            _nested.pop(next(iter(_nested)), None)  # of a request that never bound its route
        below = _nested[outer.id] = []
    return False if len(below) >= _MAX_NESTED else below


def _bind(cell: LabelCell, bound: LabelSet) -> None:
    cell.bind(bound)
    if _nested:
        for nested, own in _nested.pop(cell.id, ()):
            _bind(nested, _merge(bound, own))


def _switch(cell: LabelCell | None) -> None:
    context_var.set(cell)
    if _tracking.thread_cells is not None:
        _tracking.note(cell)


class labels:  # noqa: N801 - reads as a verb at the call site, like contextlib.suppress
    """Label the samples taken inside a block or a function.

    ``with labels(job="invoice"):`` or ``@labels({"http.route": "/x"})``, on plain and ``async``
    functions and generators. Nested labels are merged and the inner value wins. Child tasks and
    threads started through a copied context inherit the labels. A bad key or value is cleaned,
    never refused; see ``docs/configuration.md``.

    One object may be entered many times, also by several threads or tasks at once. Leaving a block
    in another context than it was entered in undoes nothing and never raises.
    """

    __slots__ = ("_outer", "_own")

    def __init__(self, given: Mapping[str, object] | None = None, /, **more: object) -> None:
        merged: dict[str, object] = {**given, **more} if given else more
        self._own = _known_set(clean_labels(merged))
        # Keyed by the entered cell and not a stack of tokens: entries of several threads or tasks
        # interleave, and a token may only be used in the context that made it.
        self._outer: dict[int, LabelCell | None] = {}

    def __enter__(self) -> None:
        outer = context_var.get()
        cell = _compose(self._own, outer)
        self._outer[cell.id] = outer
        _switch(cell)

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        tb: TracebackType | None = None,
    ) -> None:
        current = context_var.get()
        if current is not None and current.id in self._outer:
            _switch(self._outer.pop(current.id))

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        tb: TracebackType | None = None,
    ) -> None:
        self.__exit__()

    def __call__(self, function: _F) -> _F:
        wrapper: Callable[..., Any]
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def wrapper(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return await function(*args, **kwargs)

        elif inspect.isasyncgenfunction(function):

            @functools.wraps(function)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                return _labelled_async_generator(self, function(*args, **kwargs))

        elif inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                return _labelled_generator(self, function(*args, **kwargs))

        else:

            @functools.wraps(function)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return function(*args, **kwargs)

        return cast("_F", wrapper)


def _labelled_generator(
    scope: labels, generator: Generator[Any, Any, Any]
) -> Generator[Any, Any, Any]:
    """Run each step of ``generator`` under ``scope``; its consumer runs outside of it."""
    resume: Callable[[], Any] = functools.partial(next, generator)
    try:
        while True:
            with scope:
                try:
                    item = resume()
                except StopIteration as stop:
                    return stop.value
            try:
                sent = yield item
                resume = functools.partial(generator.send, sent)
            except GeneratorExit:
                raise
            except BaseException as error:
                resume = functools.partial(generator.throw, error)
    finally:
        with scope:
            generator.close()


async def _labelled_async_generator(
    scope: labels, generator: AsyncGenerator[Any, Any]
) -> AsyncGenerator[Any, Any]:
    """Run each step of ``generator`` under ``scope``; its consumer runs outside of it."""
    resume: Callable[[], Any] = generator.__anext__
    try:
        while True:
            with scope:
                try:
                    item = await resume()
                except StopAsyncIteration:
                    return
            try:
                sent = yield item
                resume = functools.partial(generator.asend, sent)
            except GeneratorExit:
                raise
            except BaseException as error:
                resume = functools.partial(generator.athrow, error)
    finally:
        with scope:
            await generator.aclose()


is_sampling = False
"""Whether a profiler runs in this process; written by ``_profiler`` alone."""


def set_sampling(value: bool) -> None:
    """Turn request scopes on or off."""
    global is_sampling
    is_sampling = value


class RequestScope:
    """The labels of one request, entered before routing and bound when the route is known.

    Samples taken between ``enter()`` and ``bind()`` get the bound labels too. A scope that is never
    bound keeps its base labels. No method raises; while no profiler runs they do nothing.

    ``late`` is asked for the labels when a window closes while the request is still running, from
    another thread; it returns ``None`` as long as the route is not known.

    ``exit()`` in another context than ``enter()``, as when a streaming body is finished by another
    task, leaves that context alone. A scope is entered once.
    """

    __slots__ = ("_base", "_cell", "_late", "_outer")

    def __init__(
        self, base: Mapping[str, str], late: Callable[[], Mapping[str, str] | None] | None = None
    ) -> None:
        self._base = base
        self._late = late
        self._cell: LabelCell | None = None
        self._outer: LabelCell | None = None

    def enter(self) -> Self:
        """Label what the current context does from here on; returns the scope."""
        if not is_sampling:
            return self
        outer = self._outer = context_var.get()
        own = _set_of(self._base)
        if outer is None:
            self._cell = cell = LabelCell(own, provisional=True)
        else:
            self._cell = cell = LabelCell(_merge(outer.labels, own), provisional=True)
            self._follow(outer, cell, own)
        context_var.set(cell)
        if _tracking.thread_cells is not None:
            _tracking.note(cell)
        if self._late is not None:
            _in_flight[cell.id] = self
        return self

    def bind(self, bound: Mapping[str, str]) -> None:
        """Add labels, for the samples already taken as well. Works after ``exit()`` too."""
        cell = self._cell
        if cell is not None:
            self._bind_to(cell, bound)
            if self._late is not None:
                _in_flight.pop(cell.id, None)

    def _bind_to(self, cell: LabelCell, bound: Mapping[str, str]) -> None:
        own = _set_of({**self._base, **bound} if self._base else bound)
        outer = self._outer
        if outer is None:
            _bind(cell, own)
        else:
            _bind(cell, _merge(outer.labels, own))
            self._follow(outer, cell, own)

    def _follow(self, outer: LabelCell, cell: LabelCell, own: LabelSet) -> None:
        """Have the cell composed anew when a request around this one is bound."""
        if outer.provisional:
            below = _list_below(outer)
            if below is not False:
                below.append((cell, own))

    def _settle(self) -> None:
        late, cell = self._late, self._cell
        bound = None if late is None else late()
        # The request may have bound itself meanwhile, and knows better.
        if bound is not None and cell is not None and cell.id in _in_flight:
            self._bind_to(cell, bound)

    def exit(self) -> None:
        """Put back what was there before; harmless when called twice or in another context."""
        cell = self._cell
        if cell is None:
            return
        if self._late is not None:
            _in_flight.pop(cell.id, None)
        if context_var.get() is cell:
            _switch(self._outer)

    def __enter__(self) -> Self:
        return self.enter()

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        tb: TracebackType | None = None,
    ) -> None:
        self.exit()


_in_flight: dict[int, RequestScope] = {}
"""Cell id → scope entered and not yet bound, of those that can say their labels when asked."""


def request_scope(
    base: Mapping[str, str], late: Callable[[], Mapping[str, str] | None] | None = None
) -> RequestScope:
    """Return a scope for one request that starts with the labels ``base``; see ``RequestScope``."""
    return RequestScope(base, late)


def settle() -> None:
    """Bind what running requests know by now; called before a window is taken. Never raises.

    Without it a request longer than a window would have its route in its last window only.
    """
    for scope in list(_in_flight.values()):
        with _log.guard("settle"):
            scope._settle()


def forget_requests() -> None:
    """Drop the requests of the parent, in a forked child."""
    _in_flight.clear()
    _nested.clear()
