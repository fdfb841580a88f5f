"""Looks at the label cell from inside a view: what a sample taken there and then would show.

A cell is kept and read later, since a request's labels are bound after the view has run.
"""

from __future__ import annotations

from typing import Any

from conprof_core._labels import context_var

__all__ = ["Seen", "labels_here"]


def labels_here() -> dict[str, str]:
    """Return the labels that a sample of the calling code would show now."""
    cell = context_var.get()
    return {} if cell is None else dict(cell.labels.items())


class Seen:
    """Remembers the cells that views stood in, by a name the view chooses."""

    def __init__(self) -> None:
        self._cells: dict[str, Any] = {}

    def note(self, name: str = "view") -> None:
        """Remember the calling context's cell."""
        self._cells[name] = context_var.get()

    def __contains__(self, name: str) -> bool:
        return name in self._cells

    def labels(self, name: str = "view") -> dict[str, str]:
        """Return the labels that samples taken at ``note(name)`` show by now."""
        cell = self._cells[name]
        return {} if cell is None else dict(cell.labels.items())

    def route(self, name: str = "view") -> str | None:
        """Return the route among them."""
        return self.labels(name).get("http.route")
