"""Profiles for those who fetch them: ``/debug/pprof/`` as Go's ``net/http/pprof`` serves it.

Framework-free, and imported only where the option ``pull`` is on. Adapters hand a request over as
ASGI (``PullASGI``), as WSGI (``PullWSGI``) or in their own way (``Pull`` and ``Request``). See
``docs/pull.md``.
"""

from __future__ import annotations

from conprof_core.pull.answer import Answer
from conprof_core.pull.asgi import PullASGI
from conprof_core.pull.handler import Pull
from conprof_core.pull.request import Request
from conprof_core.pull.wsgi import PullWSGI

__all__ = ["Answer", "Pull", "PullASGI", "PullWSGI", "Request"]
