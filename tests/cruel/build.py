"""Compiles the harness's own libraries, and finds libpython."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

_SOURCES = Path(__file__).parent / "native"


def compile_all(into: Path) -> str:
    """Compile every source into a library or the host; returns why it cannot be done, or ""."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return "no C compiler"
    for source in sorted(_SOURCES.glob("*.c")):
        is_host = source.stem == "host"
        target = into / (source.stem if is_host else f"{source.stem}.so")
        command = [compiler, "-O1", "-Wall", "-o", str(target), str(source), "-pthread", "-ldl"]
        if not is_host:
            command[1:1] = ["-shared", "-fPIC"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"{source.name} does not compile: {done.stderr.strip().splitlines()[:1]}"
    return ""


def libpython() -> Path | None:
    """Return the shared library of this interpreter, if it has one."""
    variable = sysconfig.get_config_var
    version = variable("py_version_short")
    folders = [variable("LIBDIR"), f"/usr/lib/{variable('MULTIARCH')}"]
    names = [variable("INSTSONAME"), variable("LDLIBRARY"), f"libpython{version}.so.1.0"]
    for folder in folders:
        for name in names:
            if name and ".so" in name and Path(folder or "/", name).exists():
                return Path(folder or "/", name)
    return None
