"""Builds the extension against any headers, into a package of its own beside the tree."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

__all__ = ["ROOT", "SOURCES", "BuildError", "build", "flags"]

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "conprof_core" / "_native"


class BuildError(Exception):
    """The compiler's words."""


def flags(headers: Path, sources: Path = SOURCES) -> list[str]:
    """What the compiler needs to find these headers before all others.

    Debian's pyconfig.h includes another one, which lies beside the directory of its headers.
    """
    return [
        *("-std=gnu11", "-fPIC", "-fvisibility=hidden", "-DPy_BUILD_CORE_MODULE=1"),
        *("-I", str(headers), "-I", str(sources)),
        *("-idirafter", str(headers.parent)),
    ]


def build(headers: Path, package: Path, sources: Path = SOURCES) -> None:
    """Build ``package``/conprof_core: the tree's Python files and the extension.

    Without optimization: where fields lie does not depend on it, and there are many builds.
    """
    core = package / "conprof_core"
    objects = package / "objects"
    core.mkdir(parents=True, exist_ok=True)
    objects.mkdir(exist_ok=True)
    for entry in (ROOT / "conprof_core").iterdir():
        link = core / entry.name
        if not entry.name.startswith(("_native.cpython", "__pycache__")) and not link.exists():
            link.symlink_to(entry)
    extension = core / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    names = sorted(path.name for path in sources.glob("*.c"))
    compiler = os.environ.get("CC", "gcc")
    _run(
        [compiler, "-c", "-O0", "-w", *flags(headers, sources)] + [str(sources / n) for n in names],
        objects,
    )
    _run(
        [compiler, "-shared", "-o", str(extension), "-lrt", "-lpthread", "-lm"]
        + [str(objects / name.replace(".c", ".o")) for name in names],
        objects,
    )


def _run(command: list[str], where: Path) -> None:
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(done.stderr.strip()[-2000:])
