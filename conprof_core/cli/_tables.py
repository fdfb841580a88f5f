"""Tables for a terminal. Names were cleaned at intake: no escape sequence reaches the screen."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Final

__all__ = ["amount", "percent", "render", "signed"]

_TIME = ((3600e9, "h"), (60e9, "min"), (1e9, "s"), (1e6, "ms"), (1e3, "us"), (1.0, "ns"))
_BYTES = ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))
_COUNT = ((1e9, "G"), (1e6, "M"), (1e4, "k"), (1.0, ""))


# Units as pprof knows them, in nanoseconds or bytes.
_SCALED: Final = {
    "nanoseconds": (1.0, _TIME),
    "microseconds": (1e3, _TIME),
    "milliseconds": (1e6, _TIME),
    "seconds": (1e9, _TIME),
    "bytes": (1.0, _BYTES),
    "kilobytes": (2.0**10, _BYTES),
    "megabytes": (2.0**20, _BYTES),
    "gigabytes": (2.0**30, _BYTES),
    "count": (1.0, _COUNT),
    "": (1.0, _COUNT),
}


def amount(value: float | None, unit: str) -> str:
    """Return a value with three digits and the unit that fits; a unit not known is named."""
    if value is None:
        return "-"
    factor, table = _SCALED.get(unit, (1.0, _COUNT))
    text = _digits(value * factor, table)
    return text if unit in _SCALED else f"{text} {unit}"


def _digits(value: float, table: Sequence[tuple[float, str]]) -> str:
    for size, suffix in table:
        if abs(value) >= size:
            scaled = value / (1e3 if suffix == "k" else size)
            digits = 0 if abs(scaled) >= 100 else 1 if abs(scaled) >= 10 else 2
            return f"{scaled:.{digits}f} {suffix}".rstrip()
    return "0" if not value else f"{value:.2g} {table[-1][1]}".rstrip()


def percent(share: float) -> str:
    """Return a share as a percentage."""
    return f"{share * 100:.1f} %"


def signed(text: str, value: float) -> str:
    """Return a text with the sign of a change."""
    return ("+" if value > 0 else "-" if value < 0 else "±") + text.lstrip("-")


def _fit(cell: str, width: int) -> str:
    """Cut what is too long: of ``name  place`` the begin of the place, else the middle."""
    if len(cell) <= width:
        return cell
    name, gap, place = cell.partition("  ")
    room = width - len(name) - len(gap) - 1
    if gap and room >= 8:
        return f"{name}{gap}…{place[-room:]}"
    if gap:
        return f"{name[: width - 1]}…"
    half = (width - 1) // 2
    return f"{cell[: width - 1 - half]}…{cell[len(cell) - half :]}"


def render(
    title: str, headers: Sequence[str], rows: Sequence[Sequence[str]], *, wide: int = 0
) -> str:
    """Return a table; the column ``wide`` is left-aligned and takes what room there is."""
    widths = [
        max([len(header), *(len(row[column]) for row in rows)], default=len(header))
        for column, header in enumerate(headers)
    ]
    room = shutil.get_terminal_size((200, 24)).columns  # wide where it is no terminal
    others = sum(widths) - widths[wide] + 2 * len(widths)
    widths[wide] = max(12, min(widths[wide], room - others))
    lines = [title, ""] if title else []
    for row in (headers, *rows):
        cells = []
        for column, cell in enumerate(row):
            width = widths[column]
            if column == wide:
                cells.append(_fit(cell, width).ljust(width))
            else:
                cells.append(cell.rjust(width))
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)
