"""Labels on samples: ``labels()``, and what it shares with the scope of a request (``_scope``).

Both put a label cell into the one ContextVar; an engine reads it when it takes a sample. This
module decides, once, whether the cells are the extension's or the pure-Python twin.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from conprof_core import _log, _tracking
from conprof_core._limits import MAX_LABEL_VALUE, MAX_LABELS
from conprof_core._text import valid_text

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Mapping
    from types import TracebackType
    from typing import Literal, TypeVar

    from conprof_core._cells import LabelCell, LabelSet, context_var, intern_labels

    _F = TypeVar("_F", bound=Callable[..., Any])
else:
    try:
        from conprof_core._native import LabelCell, LabelSet, context_var, intern_labels
    except ImportError:
        from conprof_core._cells import LabelCell, LabelSet, context_var, intern_labels

__all__ = [
    "LabelSet",
    "bind",
    "compose",
    "context_var",
    "intern_labels",
    "label_set",
    "labels",
    "list_below",
    "merge",
    "set_of",
    "switch",
]

_MAX_CACHED: Final = 1_024
_MAX_NESTED: Final = 256


def clean_labels(given: Mapping[str, object]) -> dict[str, str]:
    """Return labels as they travel: valid keys, string values of bounded length.

    A key that is not ``[A-Za-z_][A-Za-z0-9_.]*`` has its other characters replaced by ``_``;
    values are passed through ``str()``, and what UTF-8 cannot hold is replaced; more than
    ``MAX_LABELS`` are left out. Never raises: a value whose ``str()`` fails becomes
    ``<unprintable>``.
    """
    cleaned: dict[str, str] = {}
    for key, value in given.items():
        if len(cleaned) >= MAX_LABELS:
            break
        if type(key) is not str or not _is_key(key):
            key = _clean_key(key)
        if type(value) is not str:
            try:
                value = str(value)
            except Exception:
                value = "<unprintable>"
        if len(value) > MAX_LABEL_VALUE:
            value = value[: MAX_LABEL_VALUE - 1] + "…"
        cleaned[key] = valid_text(value)
    return cleaned


def _is_key(text: str) -> bool:
    # An identifier with dots: what an expression would say, without importing its module.
    return text.isascii() and text.replace(".", "_").isidentifier() and text[0] != "."


def _clean_key(key: object) -> str:
    try:
        text = str(key)[:MAX_LABEL_VALUE]
    except Exception:
        return "_unprintable"
    text = "".join(c if (c.isalnum() and c.isascii()) or c in "_." else "_" for c in text)
    return text if _is_key(text) else f"_{text}"


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


def label_set(given: Mapping[str, object]) -> LabelSet:
    """Return labels prepared once, for ``request_scope()`` and ``bind()`` that use them often.

    They are cleaned as those of ``labels()`` are. Keep as many as there are routes, not requests:
    the number of sets alive is bounded.
    """
    return _known_set(clean_labels(given))


def set_of(given: Mapping[str, str]) -> LabelSet:
    """Return the set for labels of an adapter, which are strings but may need cleaning."""
    found = _sets.get(tuple(given.items()))
    return _known_set(clean_labels(given)) if found is None else found


nested_cells: dict[int, list[tuple[LabelCell, LabelSet]]] = {}
"""Id of a provisional cell → the cells entered below it, each with the labels it adds.

They are composed anew when the cell is bound. Bounded both ways: beyond, a nested cell keeps what
it showed when it was entered.
"""


def merge(outer: LabelSet, own: LabelSet) -> LabelSet:
    """Return both, where ``own`` wins."""
    return _known_set(dict((*outer.items(), *own.items())[-MAX_LABELS:]))


read_trace: Callable[[LabelCell], None] | None = None
"""Gives a cell the ids of the span around it, where ``trace_ids`` is on; set by ``_traces``."""


def compose(own: LabelSet, outer: LabelCell | None, *, keeps_trace: bool = True) -> LabelCell:
    """Return a cell that shows ``own`` on top of what ``outer`` shows, now and once it is bound.

    It has the trace of ``outer``, if that has one, unless ``keeps_trace`` is false.
    """
    if outer is None:
        return LabelCell(own)
    below = outer.provisional and list_below(outer)
    shown = merge(outer.labels, own)
    if keeps_trace:
        cell = LabelCell(shown, provisional=below is not False, within=outer)
    else:
        cell = LabelCell(shown, provisional=below is not False)
    if below is not False:
        below.append((cell, own))
    return cell


def list_below(outer: LabelCell) -> list[tuple[LabelCell, LabelSet]] | Literal[False]:
    """Return the cells entered below a provisional one, to add to; ``False`` at the bound."""
    below = nested_cells.get(outer.id)
    if below is None:
        if len(nested_cells) >= _MAX_CACHED:
            nested_cells.pop(
                next(iter(nested_cells)), None
            )  # of a request that never bound its route
        below = nested_cells[outer.id] = []
    return False if len(below) >= _MAX_NESTED else below


def bind(cell: LabelCell, bound: LabelSet) -> None:
    """Give a provisional cell its labels, and those entered below it theirs."""
    cell.bind(bound)
    if nested_cells:
        for nested, own in nested_cells.pop(cell.id, ()):
            bind(nested, merge(bound, own))


def switch(cell: LabelCell | None) -> None:
    """Have the current context show ``cell`` from here on."""
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
        self._own: LabelSet | None = None  # where that fails, nothing is labelled
        try:
            self._own = _known_set(clean_labels(merged))
        except Exception as error:
            _log.swallow("labels", error)
        # Keyed by the entered cell and not a stack of tokens: entries of several threads or tasks
        # interleave, and a token may only be used in the context that made it.
        self._outer: dict[int, LabelCell | None] = {}

    def __enter__(self) -> None:
        own = self._own
        if own is None:
            return
        try:
            outer = context_var.get()
            cell = compose(own, outer)
            if read_trace is not None:
                read_trace(cell)
            self._outer[cell.id] = outer
            switch(cell)
        except Exception as error:
            _log.swallow("labels", error)

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        tb: TracebackType | None = None,
    ) -> None:
        try:
            current = context_var.get()
            if current is not None and current.id in self._outer:
                switch(self._outer.pop(current.id))
        except Exception as error:
            _log.swallow("labels", error)

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
        import inspect  # whoever decorates has the time; whoever only starts has not

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

        labelled: Any = wrapper
        return labelled  # type: ignore[no-any-return]


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


def forget() -> None:
    """Drop what was entered below unbound cells, in a forked child: those are the parent's."""
    nested_cells.clear()
