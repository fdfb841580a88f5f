"""conprof for flask."""

from __future__ import annotations
