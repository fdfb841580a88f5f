"""Real receivers as subprocesses, on the loopback: ``make test-conformance``."""

from __future__ import annotations
