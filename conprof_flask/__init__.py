"""Always-on profiling for Flask: ``Conprof(app)``."""

from __future__ import annotations

try:
    import flask as _flask  # noqa: F401
except ImportError as error:
    raise ImportError(
        'conprof_flask needs Flask, which is not installed: pip install "conprof[flask]"'
    ) from error

from conprof_flask.extension import Conprof

__all__ = ["Conprof"]
