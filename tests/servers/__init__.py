"""Real servers as subprocesses."""

from __future__ import annotations
