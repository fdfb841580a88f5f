"""What ``conprof doctor`` finds out, as plain data: facts, and problems with their remedies."""

from __future__ import annotations

import os
import platform
import socket
import sys
import sysconfig
import time
from collections.abc import Mapping
from typing import Any

from conprof_core._config import Config, Loaded
from conprof_core._controls import Controls
from conprof_core._engine import choose
from conprof_core._engine._clocks import best_clocks
from conprof_core._options import OPTIONS, ProfileType
from conprof_core._version import __version__
from conprof_core.cli._send import send as send_to_each
from conprof_core.cli._send import without_password
from conprof_core.errors import ConprofError
from conprof_core.exporters.file import directory_of

__all__ = ["collect"]

_CONNECT_S = 3.0
_CLOCK_MONOTONIC_COARSE = 6  # linux/time.h; the time module does not name it


def collect(loaded: Loaded, *, send: bool) -> dict[str, Any]:
    """Return everything the doctor reports; with ``send``, after profiling for a moment."""
    problems = list(loaded.problems)
    report: dict[str, Any] = {
        "conprof": __version__,
        "python": _python(),
        "kernel": _kernel(loaded.config, problems),
        "engine": _engine(loaded.config, problems),
        "configuration": _configuration(loaded),
        "control": _control(loaded, problems),
        "destinations": [_reach(url, loaded.config, problems) for url in _urls(loaded.config)],
    }
    if loaded.config.disabled:
        problems.append("CONPROF_DISABLED is set: start() does nothing in such a process")
    if send:
        report["sent"] = send_to_each(loaded.config, problems)
    report["problems"] = problems
    return report


def _python() -> dict[str, Any]:
    return {
        "implementation": platform.python_implementation(),
        "version": platform.python_version(),
        "executable": sys.executable,
        "free_threaded_build": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _kernel(config: Config, problems: list[str]) -> dict[str, Any]:
    facts: dict[str, Any] = {"release": platform.release()}
    hz = _timer_hz()
    if hz is None:
        return facts
    facts["timer_hz"] = hz
    if config.cpu_profile_rate > hz:
        problems.append(
            f"cpu_profile_rate is {config.cpu_profile_rate} Hz, but this kernel checks CPU timers "
            f"{hz} times a second (CONFIG_HZ): sums of CPU time stay right, samples come at {hz} Hz"
        )
    return facts


def _timer_hz() -> int | None:
    """Return CONFIG_HZ: the coarse clock advances once a tick, so its resolution tells."""
    if sys.platform != "linux":
        return None
    return round(1.0 / time.clock_getres(_CLOCK_MONOTONIC_COARSE))


def _engine(config: Config, problems: list[str]) -> dict[str, Any]:
    try:
        engine, reason = choose(config.engine)
    except ConprofError as error:
        problems.append(str(error))
        return {"name": None, "reason": str(error)}
    facts: dict[str, Any] = {"name": engine.name, "reason": reason}
    if engine.name == "native":
        facts["how"] = "one CPU-time timer for each thread; the signal handler walks the stack"
        facts["signal"] = _signal(engine.stats().get("signal_number", 0))
        return facts
    facts["how"] = f"a thread that samples all threads; {best_clocks().name}"
    if config.engine is None:
        problems.append(f"the portable engine is used: {reason}")
    if ProfileType.HEAP in config.profile_types and not config.heap_tracemalloc:
        problems.append(
            "profile type heap: the portable engine measures live memory only with tracemalloc, "
            "which makes an allocating program several times slower; CONPROF_HEAP_TRACEMALLOC=1 "
            "demands it"
        )
    return facts


def _signal(number: int) -> str:
    if not number:
        return "the one that libc keeps for itself, from the start on"
    import signal

    if number < signal.SIGRTMIN:
        return f"number {number}, which libc keeps for itself"
    return f"SIGRTMIN+{number - signal.SIGRTMIN} ({number}), which was free"


def _configuration(loaded: Loaded) -> list[dict[str, Any]]:
    return [
        {
            "option": option.name,
            "value": _shown(getattr(loaded.config, option.name), secret=option.secret),
            "source": loaded.sources[option.name],
            "variables": list(option.variables),
        }
        for option in OPTIONS
    ]


def _control(loaded: Loaded, problems: list[str]) -> dict[str, Any]:
    """What a process that starts now would begin with, and what can change it later."""
    config = loaded.config
    controls = Controls(config, loaded.sources, lambda *_: None)
    config = controls.initial()
    facts = controls.stats(config)
    del facts["changes"]
    trouble = facts.get("file", {}).get("trouble")
    if trouble:
        problems.append(
            f"control_file {config.control_file} is not followed: {trouble}; "
            "until it can be, each process does what it is configured to"
        )
    if not config.enabled:
        problems.append(
            f"profiling is off in a process that starts now ({facts['sources']['enabled']}): "
            "it begins in standby"
        )
    if config.spool_dir and (why := _writable(config.spool_dir)):
        problems.append(f"spool_dir {config.spool_dir} cannot be used: {why}")
    return facts


def _shown(value: Any, *, secret: bool) -> Any:
    if secret:
        return None if value is None else "(set)"
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        return [without_password(str(item)) for item in value]
    return value


def _urls(config: Config) -> tuple[str, ...]:
    return tuple(destination.url for destination in config.destinations())


def _reach(url: str, config: Config, problems: list[str]) -> dict[str, Any]:
    """Say whether a destination is there, without sending it anything."""
    scheme = url.partition(":")[0].lower()
    target = url = without_password(url)
    if scheme == "blackfire":
        target = without_password(config.agent_socket)
        trouble = _connect(config.agent_socket)
    elif scheme == "file":
        trouble = _writable(directory_of(url))
    else:
        target = _address(url)
        trouble = _connect(target)
    if trouble:
        problems.append(f"{target} cannot be used: {trouble}")
    return {"url": url, "target": target, "reachable": not trouble, "detail": trouble}


def _address(url: str) -> str:
    """Return where an exporter that speaks HTTP sends to."""
    # Imported here: only what is configured is looked at.
    if url.lower().startswith("pyroscope"):
        from conprof_core.exporters import pyroscope

        return pyroscope.target_of(url).url
    from conprof_core.exporters import otlp

    return otlp.target_of(url).url


def _connect(address: str) -> str:
    """Open and close a connection; returns what is wrong, or nothing."""
    scheme, _, rest = address.partition("://")
    try:
        if scheme == "unix":
            if not hasattr(socket, "AF_UNIX"):
                return "this system has no unix sockets in Python; use tcp://"
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(_CONNECT_S)
                probe.connect(rest)
            return ""
        host, _, port = rest.split("/", 1)[0].rpartition("@")[2].rpartition(":")
        if not host:
            host, port = port, "443" if scheme == "https" else "80"
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except FileNotFoundError:
        return "there is no such socket; is the agent installed and running?"
    except PermissionError:
        return f"user {_user()} may not open it; add that user to the group of the agent"
    except ConnectionRefusedError:
        return "nobody listens there; is the agent running?"
    except OSError as error:
        return str(error.strerror or error)
    return ""


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "?")


def _writable(directory: str) -> str:
    """Return why no file can be made in a directory, or in the nearest one that exists."""
    existing = directory
    while not os.path.exists(existing) and os.path.dirname(existing) != existing:
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        return f"{existing} is not a directory"
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"user {_user()} may not write to {existing}"
    return ""
