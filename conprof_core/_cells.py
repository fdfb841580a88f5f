"""Pure-Python twin of the extension's label sets and label cells.

``_labels`` uses it where the extension is absent; the portable engine reads either kind through the
same attributes. Interfaces are those of ``_native.pyi``.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Final, Literal, Self, final

from conprof_core._limits import MAX_LABEL_SETS

__all__ = [
    "LabelCell",
    "LabelSet",
    "PlainScope",
    "context_var",
    "enter_request",
    "switch_request",
    "intern_labels",
    "use_scope_state",
]

_Items = tuple[tuple[str, str], ...]

OVERFLOW_ITEMS: Final[_Items] = (("conprof.overflow", "labels"),)


@final
class LabelSet:
    """An immutable, interned set of labels: equal content is the same object."""

    __slots__ = ("__weakref__", "_items")

    def __init__(self, items: _Items) -> None:
        self._items = items

    def items(self) -> _Items:
        """Return the labels, sorted by key."""
        return self._items

    def __repr__(self) -> str:
        return f"LabelSet({dict(self._items)!r})"


_interned: weakref.WeakValueDictionary[_Items, LabelSet] = weakref.WeakValueDictionary()
_EMPTY: Final = LabelSet(())
_OVERFLOW: Final = LabelSet(OVERFLOW_ITEMS)


def intern_labels(labels: Mapping[str, str] | Iterable[tuple[str, str]]) -> LabelSet:
    """Return the one ``LabelSet`` with this content, or the overflow set when too many are alive.

    Two threads that intern the same new content at the same instant may get two sets; rows are
    merged by content when a window is encoded, so nothing depends on it.
    """
    items = tuple(sorted(labels.items() if isinstance(labels, Mapping) else dict(labels).items()))
    if not items:
        return _EMPTY
    if items == OVERFLOW_ITEMS:
        return _OVERFLOW
    found = _interned.get(items)
    if found is not None:
        return found
    if len(_interned) >= MAX_LABEL_SETS:
        return _OVERFLOW
    made = LabelSet(items)
    _interned[items] = made
    return made


_cell_ids = itertools.count(1)


@final
class LabelCell:
    """What the ContextVar holds: a place whose label set may be filled in later."""

    __slots__ = ("_had_trace", "id", "labels", "provisional", "trace")

    def __init__(
        self, labels: LabelSet, *, provisional: bool = False, within: LabelCell | None = None
    ) -> None:
        self.id = next(_cell_ids)
        self.labels = labels
        self.provisional = provisional
        self.trace: tuple[int, int, int] | None = None if within is None else within.trace
        self._had_trace = self.trace is not None

    def bind(self, labels: LabelSet, /) -> None:
        """Set the final labels; samples already taken under this cell get them as well."""
        self.labels = labels
        self.provisional = False

    def set_trace(self, high: int, low: int, span: int, /) -> bool:
        """Set the ids of a span, once; ``False``, and nothing done, where there were some."""
        if not span or self._had_trace:
            return False
        self._had_trace = True
        self.trace = (high, low, span)
        return True

    def end_trace(self) -> None:
        """Give later samples no ids."""
        self.trace = None


context_var: ContextVar[LabelCell | None] = ContextVar("conprof_labels", default=None)


def enter_request(labels: LabelSet, /) -> LabelCell | None:
    """Make a provisional cell the current one; ``None``, and nothing done, where there is one."""
    if context_var.get() is not None:
        return None
    cell = LabelCell(labels, provisional=True)
    context_var.set(cell)
    return cell


def switch_request(cell: LabelCell, following: LabelCell | None, /) -> bool:
    """Make ``following`` current if ``cell`` is."""
    if context_var.get() is not cell:
        return False
    context_var.set(following)
    return True


class PlainScope:
    """The fields of a ``RequestScope``; its methods are all Python where there is no extension."""

    __slots__ = ("_base", "_cell", "_late", "_outer", "is_bound")

    def __init__(
        self,
        base: Mapping[str, str] | LabelSet,
        late: Callable[[], Mapping[str, str] | LabelSet | None] | Literal[True] | None = None,
    ) -> None:
        self._base = base
        self._late = late
        self.is_bound = False
        self._cell: LabelCell | None = None
        self._outer: LabelCell | None = None

    def enter(self) -> Self:
        """Label what the current context does from here on; returns the scope."""
        return self._enter()

    def bind(self, bound: Mapping[str, str] | LabelSet) -> None:
        """Add labels, for the samples already taken as well. Works after ``exit()`` too."""
        self._bind(bound)

    def exit(self) -> None:
        """Put back what was there before; harmless when called twice or in another context."""
        self._exit()

    def __enter__(self) -> Self:
        return self._enter()

    def __exit__(self, *exc_info: object) -> None:
        self._exit()

    def _enter(self) -> Self:
        raise NotImplementedError

    def _bind(self, bound: Mapping[str, str] | LabelSet) -> None:
        raise NotImplementedError

    def _exit(self) -> None:
        raise NotImplementedError


def use_scope_state(*state: object) -> None:
    """Tell the extension where to find what decides; here ``_scope`` itself reads it."""
