"""The programs that cells run: what they print must be the same with the profiler and without."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module


def find(name: str) -> tuple[Callable[..., int | None], Callable[..., object]]:
    """Return the program ``module.function``, and what prepares it before the profiler starts."""
    module_name, _, function = name.partition(".")
    module = import_module(f"cruel.programs.{module_name}")
    return getattr(module, function), getattr(module, "prepare", lambda *_: None)
