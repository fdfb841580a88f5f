"""The one thing pyproject.toml cannot say: the C extension, built where it can run, never required.

Environment:
    CONPROF_WERROR=1             warnings of the C compiler are errors (CI)
    CONPROF_SANITIZE=LIST        builds with -fsanitize=LIST, such as address,undefined or thread
    CONPROF_REQUIRE_NATIVE=1     a failed build fails the installation (CI)
    CONPROF_NO_NATIVE=1          leaves the extension out
"""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup

SOURCES = Path("conprof_core", "_native")


def can_run() -> bool:
    """Tell whether this interpreter is one the native engine knows."""
    return (
        sys.platform == "linux"
        and sys.implementation.name == "cpython"
        and (3, 11) <= sys.version_info[:2] <= (3, 15)
        and not sysconfig.get_config_var("Py_GIL_DISABLED")
    )


def extension() -> Extension:
    """Describe the extension as the environment asks for it."""
    compile_args = [
        "-std=gnu11",
        "-O2",
        "-g",
        "-fvisibility=hidden",
        "-fno-omit-frame-pointer",
        "-Wall",
        "-Wextra",
    ]
    link_args = []
    if os.environ.get("CONPROF_WERROR") == "1":
        compile_args.append("-Werror")
    if sanitizers := os.environ.get("CONPROF_SANITIZE"):
        compile_args += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=undefined", "-O1"]
        link_args.append(f"-fsanitize={sanitizers}")
    return Extension(
        "conprof_core._native",
        sources=sorted(str(path) for path in SOURCES.glob("*.c")),
        depends=sorted(str(path) for path in SOURCES.glob("*.h")),
        define_macros=[("Py_BUILD_CORE_MODULE", "1")],
        libraries=["rt", "pthread", "m"],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
        optional=os.environ.get("CONPROF_REQUIRE_NATIVE") != "1",
    )


wanted = can_run() and os.environ.get("CONPROF_NO_NATIVE") != "1"
setup(
    ext_modules=[extension()] if wanted else [],
    # Objects in build/ may be of a build with other flags, which setuptools does not notice.
    options={"build_ext": {"force": True}},
)
