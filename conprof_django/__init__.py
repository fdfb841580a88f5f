"""conprof for django."""

from __future__ import annotations
