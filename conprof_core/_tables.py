"""Strings, functions and locations of one profile, each once, with ids: what pprof and OTLP share.

The reference for the extension's ``tables.c``.
"""

from __future__ import annotations

from conprof_core._merge import clean_name

__all__ = ["Tables"]


class Tables:
    """String 0 is empty; functions and locations are numbered 1 to n in the order of first use.

    Attributes:
        strings: text → index.
        functions: (name, file, first line), the first two as strings → id.
        locations: (function, line) → id.
    """

    def __init__(self) -> None:
        self.strings: dict[str, int] = {"": 0}
        self.functions: dict[tuple[int, int, int], int] = {}
        self.locations: dict[tuple[int, int], int] = {}
        self._frames: dict[tuple[str, str, int, int], int] = {}

    def string(self, text: str) -> int:
        """Return the index of a string."""
        return self.strings.setdefault(text, len(self.strings))

    def location(self, frame: tuple[str, str, int, int]) -> int:
        """Return the id of the location of a frame."""
        found = self._frames.get(frame)
        if found is None:
            name, filename, line, start_line = frame
            function = (
                self.string(clean_name(name) or "<unknown>"),
                self.string(clean_name(filename)),
                max(0, start_line),
            )
            function_id = self.functions.setdefault(function, len(self.functions) + 1)
            location = (function_id, max(0, line))
            found = self.locations.setdefault(location, len(self.locations) + 1)
            self._frames[frame] = found
        return found

    def encoded_strings(self) -> list[bytes]:
        """Return the strings in order, as they travel."""
        return [text.encode("utf-8", "replace") for text in self.strings]
