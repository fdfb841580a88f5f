"""A span of time as profiles tell it: when it began by the wall clock, and how long it was.

The wall clock may be set back or forward meanwhile, by hours; a difference of two readings of it is
no duration.
"""

from __future__ import annotations

import time
from typing import Final

__all__ = ["Span"]

# As CONPROF_SAME_CLOCK_NS of the extension's clock.h.
_SAME_CLOCK_NS: Final = 100_000_000


class Span:
    """A span that begins now.

    Args:
        behind_ns: where the one before it ended, if there was one: its begin too, if the clock was
            not set meanwhile.
    """

    __slots__ = ("_began_ns", "start_ns")

    def __init__(self, behind_ns: int = 0) -> None:
        now_ns = time.time_ns()
        self._began_ns = time.monotonic_ns()
        self.start_ns = behind_ns if abs(now_ns - behind_ns) < _SAME_CLOCK_NS else now_ns

    def end_ns(self) -> int:
        """Return the unix time at which it ends if that is now, by the clock of its begin."""
        return self.start_ns + time.monotonic_ns() - self._began_ns
