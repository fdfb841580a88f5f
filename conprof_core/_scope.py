"""The scope of one request, for adapters: entered before routing, bound when the route is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from conprof_core import _labels, _log, _tracking
from conprof_core._labels import LabelSet, context_var, merge, set_of
from conprof_core._threads import new_rlock

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self, TypeAlias

    from conprof_core._cells import (
        LabelCell,
        PlainScope,
        enter_request,
        switch_request,
        use_scope_state,
    )

    Labels: TypeAlias = Mapping[str, str] | LabelSet
else:
    from conprof_core._labels import LabelCell

    try:
        from conprof_core._native import (
            PlainScope,
            enter_request,
            switch_request,
            use_scope_state,
        )
    except ImportError:
        from conprof_core._cells import (
            PlainScope,
            enter_request,
            switch_request,
            use_scope_state,
        )

__all__ = [
    "RequestScope",
    "forget",
    "request_scope",
    "set_sampling",
    "settle",
    "take_requests",
]

_is_sampling = False
_in_flight: set[RequestScope] = set()
"""Scopes entered and not yet bound, of those that can say their labels when asked."""


_MAX_UNCOUNTED: Final = 4_096
_bound: list[LabelSet] = []
_counts: dict[LabelSet, int] = {}
_counting = new_rlock()
"""Requests of this window: what each was bound to, and those of them that are counted already.

An append is all that a request pays. Each step on the list is atomic under the GIL.
"""


def set_sampling(value: bool) -> None:
    """Turn request scopes on or off: they work while a profiler runs."""
    global _is_sampling
    _is_sampling = value


class RequestScope(PlainScope):
    """The labels of one request, entered before routing and bound when the route is known.

    Samples taken between ``enter()`` and ``bind()`` get the bound labels too. A scope that is never
    bound keeps its base labels. No method raises; while no profiler runs they do nothing.

    Labels are a mapping or, for what every request does, a prepared ``label_set()``; a set that is
    bound takes the place of the base labels, a mapping is added to them.

    ``late`` is asked for the labels when a window closes while the request is still running, from
    another thread; it returns ``None`` as long as the route is not known. A subclass that overrides
    ``late_labels()`` gives ``True``: a callable more is paid for by every request.

    ``exit()`` in another context than ``enter()``, as when a streaming body is finished by another
    task, leaves that context alone. A scope is entered once.

    Attributes:
        is_bound: whether it has been bound while a profiler ran.
    """

    # ``PlainScope`` has the fields, and ``enter()``, ``bind()`` and ``exit()``: in the extension
    # they do what most requests need, and call what follows here for all else.
    __slots__ = ()

    def _enter(self) -> Self:
        if _is_sampling:
            try:
                self._enter_sampled()
            except Exception as error:
                _log.swallow("scope", error)
        return self

    def _enter_sampled(self) -> None:
        base = self._base
        own = base if type(base) is LabelSet else set_of(base)
        self._cell = cell = enter_request(own) or self._enter_nested(own)
        if _labels.read_trace is not None:
            _labels.read_trace(cell)
        if _tracking.thread_cells is not None:
            _tracking.note(cell)
        if self._late is not None:
            _in_flight.add(self)

    def _enter_nested(self, own: LabelSet) -> LabelCell:
        outer = context_var.get()
        assert outer is not None
        self._outer = outer
        cell = LabelCell(merge(outer.labels, own), provisional=True, within=outer)
        self._follow(outer, cell, own)
        switch_request(outer, cell)
        return cell

    def _bind(self, bound: Labels) -> None:
        try:
            self._bind_sampled(bound)
        except Exception as error:
            _log.swallow("scope", error)

    def _bind_sampled(self, bound: Labels) -> None:
        cell = self._cell
        if cell is not None:
            if _labels.read_trace is not None:
                _labels.read_trace(cell)
            own = self._bind_to(cell, bound)
            if not self.is_bound:
                self.is_bound = True
                _bound.append(own)
                if len(_bound) > _MAX_UNCOUNTED:
                    _count()
            self._forget_late()

    def _bind_to(self, cell: LabelCell, bound: Labels) -> LabelSet:
        if type(bound) is LabelSet:
            own = bound
        else:
            base = self._base
            own = set_of({**dict(base.items()), **dict(bound.items())})
        outer = self._outer
        if outer is None:
            _labels.bind(cell, own)
        else:
            _labels.bind(cell, merge(outer.labels, own))
            self._follow(outer, cell, own)
        return own

    def _follow(self, outer: LabelCell, cell: LabelCell, own: LabelSet) -> None:
        """Have the cell composed anew when a request around this one is bound."""
        if outer.provisional:
            below = _labels.list_below(outer)
            if below is not False:
                below.append((cell, own))

    def late_labels(self) -> Labels | None:
        """Return what can be said of the labels by now; ``None`` while no route is known."""
        late = self._late
        return late() if callable(late) else None

    def _settle(self) -> None:
        cell = self._cell
        bound = self.late_labels()
        # The request may have bound itself meanwhile, and knows better.
        if bound is not None and cell is not None and self in _in_flight:
            self._bind_to(cell, bound)

    def _exit(self) -> None:
        try:
            self._exit_sampled()
        except Exception as error:
            _log.swallow("scope", error)

    def _exit_sampled(self) -> None:
        cell = self._cell
        if cell is not None:
            self._forget_late()
            if switch_request(cell, self._outer) and _tracking.thread_cells is not None:
                _tracking.note(self._outer)

    def _forget_late(self) -> None:
        if self._late is not None:
            _in_flight.discard(self)
            self._late = None  # often a method of what holds the scope: no cycle stays


def _swallow(error: Exception) -> None:
    """Called by the extension where one of its own steps has failed."""
    _log.swallow("scope", error)


use_scope_state(
    globals(),
    vars(_labels),
    vars(_tracking),
    _in_flight,
    _bound,
    _labels.nested_cells,
    _MAX_UNCOUNTED,
)

request_scope = RequestScope
"""Reads as a verb at the call site; see ``RequestScope``."""


def settle() -> None:
    """Bind what running requests know by now; called before a window is taken. Never raises.

    Without it a request longer than a window would have its route in its last window only.
    """
    for scope in list(_in_flight):
        with _log.guard("settle"):
            scope._settle()


def _count() -> None:
    with _counting:
        bound = _bound[:]
        del _bound[: len(bound)]
        for labels in bound:
            _counts[labels] = _counts.get(labels, 0) + 1


def take_requests() -> dict[str, int]:
    """Return route → requests that were bound to it since the last call."""
    _count()
    routes: dict[str, int] = {}
    with _counting:
        counts: dict[LabelSet, int] = {}
        while _counts:  # one by one: a signal handler may do the same in between
            labels, count = _counts.popitem()
            counts[labels] = counts.get(labels, 0) + count
    for labels, count in counts.items():
        route = dict(labels.items()).get("http.route")
        if route is not None:
            routes[route] = routes.get(route, 0) + count
    return routes


def forget() -> None:
    """Drop the requests of the parent, in a forked child."""
    global _counting
    _counting = new_rlock()
    _bound.clear()
    _counts.clear()
    _in_flight.clear()
    _labels.forget()
