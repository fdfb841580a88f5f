"""Always-on profiling for Django: ``"conprof_django"`` in ``INSTALLED_APPS``."""

from __future__ import annotations

try:
    import django as _django  # noqa: F401
except ImportError as error:
    raise ImportError(
        'conprof_django needs Django, which is not installed: pip install "conprof[django]"'
    ) from error
