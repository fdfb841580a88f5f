"""Pure-Python twin of the extension's label sets and label cells.

``_labels`` uses it where the extension is absent; the portable engine reads either kind through the
same attributes. Interfaces are those of ``_native.pyi``.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Final, final

from conprof_core._limits import MAX_LABEL_SETS

__all__ = ["LabelCell", "LabelSet", "context_var", "intern_labels"]

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
    """What the ContextVar holds: a place whose label set may be filled in later.

    With ``parent``, ``labels`` is an overlay: the cell shows the parent's labels with its own on
    top, also when the parent is bound after this cell was made.
    """

    __slots__ = ("_own", "_parent", "_provisional", "id")

    def __init__(
        self, labels: LabelSet, *, provisional: bool = False, parent: LabelCell | None = None
    ) -> None:
        self.id = next(_cell_ids)
        self._own = labels
        self._provisional = provisional
        self._parent = parent

    @property
    def labels(self) -> LabelSet:
        """The labels as they are known now."""
        parent = self._parent
        if parent is None:
            return self._own
        merged = intern_labels((*parent.labels.items(), *self._own.items()))
        if not parent.provisional:
            self._own, self._parent = merged, None
        return merged

    @property
    def provisional(self) -> bool:
        """Whether the labels may still change, through this cell or one above it."""
        return self._provisional or (self._parent is not None and self._parent.provisional)

    def bind(self, labels: LabelSet) -> None:
        """Set the final labels; samples already taken under this cell get them as well."""
        self._own = labels
        self._provisional = False


context_var: ContextVar[LabelCell | None] = ContextVar("conprof_labels", default=None)
