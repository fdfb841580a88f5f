"""The version, for the package, the uploads and the build alike."""

from __future__ import annotations

__version__ = "0.1.0"
