"""Small shops, one in each framework, to try conprof on; ``traffic`` visits them."""

from __future__ import annotations
