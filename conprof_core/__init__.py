"""Always-on profiling for Python web applications: the public API.

import conprof_core as conprof

conprof.start(application_name="shop")
with conprof.labels(job="invoice"):
    ...
conprof.stop()
"""

from __future__ import annotations

from conprof_core._config import Config, ProfileType
from conprof_core._labels import RequestScope, labels, request_scope
from conprof_core._profiler import Profiler, flush, is_running, start, stats, stop
from conprof_core._version import __version__
from conprof_core.errors import (
    AlreadyRunningError,
    ConfigError,
    ConprofError,
    EngineUnavailableError,
    ExportError,
)

CPU = ProfileType.CPU

__all__ = [
    "CPU",
    "AlreadyRunningError",
    "Config",
    "ConfigError",
    "ConprofError",
    "EngineUnavailableError",
    "ExportError",
    "ProfileType",
    "Profiler",
    "RequestScope",
    "__version__",
    "flush",
    "is_running",
    "labels",
    "request_scope",
    "start",
    "stats",
    "stop",
]
