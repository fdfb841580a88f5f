"""Who this process is, for uploads: service, host, runtime. Made anew in a forked child."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Final

from conprof_core._config import Config
from conprof_core._limits import MAX_LABEL_VALUE
from conprof_core._otel import resource_attributes
from conprof_core._version import __version__

__all__ = ["Process", "clean_tag"]

_SERVICE_FALLBACK: Final = "python"


def clean_tag(text: str) -> str:
    """Return text that may stand in a tag: ``key:value`` joined by commas, which has no escapes.

    Commas and control characters become ``_``, surrounding blanks and colons go, and what is longer
    than 200 characters ends in an ellipsis.
    """
    cleaned = "".join("_" if c == "," or not c.isprintable() else c for c in text)
    cleaned = cleaned.encode("utf-8", "replace").decode("utf-8").strip(" :")
    if len(cleaned) > MAX_LABEL_VALUE:
        cleaned = cleaned[: MAX_LABEL_VALUE - 1] + "…"
    return cleaned


class Process:
    """Identity of one process; attributes are read-only.

    Attributes:
        pid: process id at construction; another ``os.getpid()`` means a fork went unnoticed.
        runtime_id: 32 hex digits, new for each process.
    """

    def __init__(self, config: Config) -> None:
        self.pid = os.getpid()
        self.runtime_id = os.urandom(16).hex()
        self._application_name = config.application_name
        self._labels = config.labels

    @property
    def service(self) -> str:
        """Name of the service. Asked late: a spawned child learns only then what it runs."""
        named = self._application_name or resource_attributes().get("service.name")
        return named or program_name()

    def tags(self, engine: str) -> dict[str, str]:
        """Return the tags that describe this process, in upload order. Holds no path, no argument.

        Labels of the user replace tags of the same name.
        """
        import platform

        try:
            system, host, architecture = platform.system(), platform.node(), platform.machine()
        except OSError:  # a sandbox refuses to say, which is no reason to lose a window
            system, host, architecture = sys.platform, "unknown", "unknown"
        tags = {
            "service": self.service,
            "application_name": self.service,
            "host": host,
            "language": "python",
            "runtime": platform.python_implementation(),
            "runtime_version": platform.python_version(),
            "runtime_os": system,
            "runtime_arch": architecture,
            "runtime-id": self.runtime_id,
            "process_id": str(self.pid),
            "probe_version": __version__,
            "engine": engine,
        }
        project = os.environ.get("PLATFORM_PROJECT")
        if project:
            tags["project_id"] = project
        return {**tags, **self._clean_labels()}

    def _clean_labels(self) -> Mapping[str, str]:
        cleaned = {
            clean_tag(key).replace(":", "_"): clean_tag(value)
            for key, value in self._labels.items()
        }
        return {key: value for key, value in cleaned.items() if key and value}


def program_name() -> str:
    """Return the name of what runs: the module after ``-m``, or the script without its ending."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    name = getattr(spec, "name", None)
    if isinstance(name, str) and name and name != "__main__":
        return name.removesuffix(".__main__")
    script = sys.argv[0] if getattr(sys, "argv", None) else ""
    base = os.path.basename(script)
    if base == "__main__.py":
        base = os.path.basename(os.path.dirname(script))
    base = base.removesuffix(".py")
    return base if base and base not in ("-c", "-m", "-") else _SERVICE_FALLBACK
