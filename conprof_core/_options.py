"""The one table of options: names, variables, defaults, and what each value may be.

``conprof doctor``, the command line and ``docs/configuration.md`` follow ``OPTIONS``.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from conprof_core import _option_values as values
from conprof_core._agent_socket import agent_socket, default_agent_socket
from conprof_core._control import parse_signal
from conprof_core._limits import (
    MAX_RATE_HZ,
    MAX_SPOOL_BYTES,
    MIN_RATE_HZ,
    MIN_SPOOL_BYTES,
)
from conprof_core._option_values import NOWHERE, ProfileType

__all__ = ["NOWHERE", "OPTIONS", "OPTION_NAMED", "Option", "ProfileType"]


class Option(NamedTuple):
    """One row of the table of options.

    Attributes:
        name: field of ``Config`` and keyword of ``start()``.
        variables: environment variables, the first that is set and usable wins.
        parse: checks a value and brings it into the form that ``Config`` holds.
        help: one line for people.
        default: what holds when nothing is given.
        secret: never shown.
    """

    name: str
    variables: tuple[str, ...]
    parse: Callable[[str, object], Any]
    help: str
    default: object = None
    secret: bool = False


OPTIONS: Final[tuple[Option, ...]] = (
    Option(
        "application_name",
        ("BLACKFIRE_CONPROF_APP_NAME", "PLATFORM_APPLICATION_NAME", "OTEL_SERVICE_NAME"),
        values.optional_text,
        "name of the service; default: name of the program",
    ),
    Option(
        "cpu_duration",
        ("BLACKFIRE_CONPROF_CPU_DURATION",),
        values.seconds(0.1, 86_400),
        "seconds of each period in which samples are taken",
        default=45.0,
    ),
    Option(
        "period",
        ("BLACKFIRE_CONPROF_PERIOD",),
        values.seconds(0.1, 86_400),
        "seconds from one upload to the next",
        default=45.0,
    ),
    Option(
        "cpu_profile_rate",
        ("BLACKFIRE_CONPROF_CPU_PROFILERATE",),
        values.whole("Hz", MIN_RATE_HZ, MAX_RATE_HZ),
        "samples per second of CPU time",
        default=100,
    ),
    Option(
        "profile_types",
        ("CONPROF_PROFILE_TYPES",),
        values.profile_types,
        "what is measured",
        default=(ProfileType.CPU,),
    ),
    Option(
        "heap_sample_bytes",
        ("CONPROF_HEAP_SAMPLE_BYTES",),
        values.heap_sample_bytes,
        "allocated bytes between two samples, on average; 0: 512 KiB, and more under load",
        default=0,
    ),
    Option(
        "heap_old_windows",
        ("CONPROF_HEAP_OLD_WINDOWS",),
        values.windows,
        "windows after which live memory is labelled heap.age=old; 0: never",
        default=0,
    ),
    Option(
        "heap_tracemalloc",
        ("CONPROF_HEAP_TRACEMALLOC",),
        values.flag,
        "let the portable engine profile live memory with tracemalloc, which is expensive",
        default=False,
    ),
    Option(
        "loop_blocked_threshold",
        ("CONPROF_LOOP_BLOCKED_THRESHOLD",),
        values.seconds(0.05, 3_600),
        "seconds that a callback may keep an event loop before it counts as blocking it",
        default=0.1,
    ),
    Option(
        "labels",
        ("CONPROF_LABELS",),
        values.labels,
        "labels of the process, sent with each upload",
        default=MappingProxyType({}),
    ),
    Option(
        "agent_socket",
        ("BLACKFIRE_AGENT_SOCKET",),
        agent_socket,
        "where the Blackfire Agent listens",
        default=default_agent_socket(),
    ),
    Option("server_id", ("BLACKFIRE_SERVER_ID",), values.secret, "user of the upload", secret=True),
    Option(
        "server_token",
        ("BLACKFIRE_SERVER_TOKEN",),
        values.secret,
        "password of the upload",
        secret=True,
    ),
    Option(
        "upload_timeout",
        ("BLACKFIRE_CONPROF_UPLOAD_TIMEOUT",),
        values.seconds(0.1, 600),
        "seconds that one upload, and stop(), may take in all",
        default=10.0,
    ),
    Option(
        "export_to",
        ("CONPROF_EXPORT_TO",),
        values.export_to,
        "URLs; default: the agent socket; none: for no destination",
        default=(),
    ),
    Option(
        "pull",
        ("CONPROF_PULL",),
        values.flag,
        "let the adapters answer /debug/pprof/",
        default=False,
    ),
    Option(
        "pull_token",
        ("CONPROF_PULL_TOKEN",),
        values.token,
        "what a reader of /debug/pprof/ must know; default: only this machine may read",
        secret=True,
    ),
    Option(
        "spool_dir",
        ("CONPROF_SPOOL_DIR",),
        values.spool_dir,
        "directory for windows that wait while a destination is away; default: memory only",
        default="",
    ),
    Option(
        "spool_bytes",
        ("CONPROF_SPOOL_BYTES",),
        values.whole("bytes", MIN_SPOOL_BYTES, MAX_SPOOL_BYTES),
        "bytes that one process may keep there for one destination",
        default=64 << 20,
    ),
    Option(
        "carry_labels",
        ("CONPROF_CARRY_LABELS",),
        values.flag,
        "hand labels to threads, executors and greenlets that a request starts",
        default=True,
    ),
    Option(
        "trace_ids",
        ("CONPROF_TRACE_IDS",),
        values.trace_ids,
        "tracer whose trace and span ids travel with the samples: otel, ddtrace, sentry, auto, off",
        default="off",
    ),
    Option(
        "engine", ("CONPROF_ENGINE",), values.engine, "native or portable; default: what can run"
    ),
    Option(
        "disabled",
        ("CONPROF_DISABLED",),
        values.flag,
        "kill switch: start() does nothing",
        default=False,
    ),
    Option("enabled", ("CONPROF_ENABLED",), values.flag, "no: begin in standby", default=True),
    Option("control_file", ("CONPROF_CONTROL_FILE",), values.path, "file to follow", default=""),
    Option(
        "control_signal", ("CONPROF_CONTROL_SIGNAL",), parse_signal, "turns off and on", default=""
    ),
    Option(
        "log_file",
        ("BLACKFIRE_LOG_FILE",),
        values.path,
        "file that the log goes to",
        default="stderr",
    ),
    Option(
        "log_level",
        ("BLACKFIRE_LOG_LEVEL",),
        values.level,
        "1 errors, 2 warnings, 3 info, 4 debug",
        default=1,
    ),
)

OPTION_NAMED: Final = {option.name: option for option in OPTIONS}
