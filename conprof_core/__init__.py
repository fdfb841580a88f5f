"""Always-on profiling for Python web applications: the public API.

import conprof_core as conprof

conprof.start(application_name="shop")
with conprof.labels(job="invoice"):
    ...
conprof.stop()
"""

from __future__ import annotations

from conprof_core._config import Config
from conprof_core._http import UNMATCHED, http_labels
from conprof_core._labels import LabelSet, label_set, labels
from conprof_core._log import swallow
from conprof_core._options import ProfileType
from conprof_core._profiler import Profiler, flush, is_running, start, stats, stop
from conprof_core._reconfigure import ControlResult, apply_control, reconfigure
from conprof_core._scope import RequestScope, request_scope
from conprof_core._version import __version__
from conprof_core.errors import (
    AlreadyRunningError,
    ConfigError,
    ConprofError,
    EngineUnavailableError,
    ExportError,
)

CPU = ProfileType.CPU
HEAP = ProfileType.HEAP
TASKS = ProfileType.TASKS
WALL = ProfileType.WALL

__all__ = [
    "CPU",
    "HEAP",
    "TASKS",
    "UNMATCHED",
    "WALL",
    "AlreadyRunningError",
    "Config",
    "ConfigError",
    "ConprofError",
    "ControlResult",
    "EngineUnavailableError",
    "ExportError",
    "LabelSet",
    "ProfileType",
    "Profiler",
    "RequestScope",
    "__version__",
    "apply_control",
    "flush",
    "http_labels",
    "is_running",
    "label_set",
    "labels",
    "reconfigure",
    "request_scope",
    "start",
    "stats",
    "stop",
    "swallow",
]
