"""The pull handler under real servers, and in pieces."""

from __future__ import annotations
