"""Small C libraries that tests bring along, compiled when they run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def shared_library(directory: Path, source: str) -> Path:
    """Compile a shared library, or skip the test where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    code = directory / "library.c"
    library = directory / "library.so"
    code.write_text(source)
    flags = ["-O1", "-g", "-Wall", "-Werror", "-shared", "-fPIC", "-pthread"]
    subprocess.run([compiler, *flags, "-o", str(library), str(code)], check=True, timeout=60)
    return library
