"""Says which extra to install, before an import error would say it less well."""

from __future__ import annotations

import sys
from importlib.util import find_spec

__all__ = ["need_agent_extra"]


def need_agent_extra(verb: str) -> bool:
    """Tell whether the agent can run; if not, say on stderr what is missing and how to get it."""
    missing = [name for name in ("duckdb", "starlette", "uvicorn") if find_spec(name) is None]
    if sys.version_info < (3, 14) and _without_zstd():
        missing.append("backports.zstd")
    if missing:
        print(
            f"conprof {verb} needs {', '.join(missing)}: pip install 'conprof[agent]'",
            file=sys.stderr,
        )
    return not missing


def _without_zstd() -> bool:
    try:
        return find_spec("backports.zstd") is None
    except ModuleNotFoundError:
        return True
