"""Headers of every patch release of a version that this machine has, or can get from Debian."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["fetch", "find"]

# The suites whose packages may be of this version; what a machine's own sources name comes first.
SUITES = {
    (3, 11): ("bookworm",),
    (3, 13): ("trixie", "sid"),
    (3, 14): ("sid",),
    (3, 15): ("sid",),
}
MIRROR = "http://deb.debian.org/debian"
TAG = f"python{sys.version_info[0]}.{sys.version_info[1]}"


def patch_of(headers: Path) -> str:
    """Return the release that headers are of, such as 3.13.5."""
    found = re.search(r'#define PY_VERSION\s+"([^"+]+)', (headers / "patchlevel.h").read_text())
    return found.group(1) if found else "?"


def find(kept: Path) -> dict[str, Path]:
    """Return the headers that are here, by release: of this and other interpreters, or fetched."""
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    cache = Path(
        os.environ.get("CONPROF_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "conprof")
    )
    places = [
        *home.glob(f"versions/*/include/{TAG}"),
        *(root / "include" / TAG for root in (Path("/usr"), Path("/usr/local"))),
        *cache.glob(f"root-*/usr/include/{TAG}"),
        *kept.glob(f"*/include/{TAG}"),
        *kept.glob(f"*/usr/include/{TAG}"),
    ]
    found: dict[str, Path] = {}
    for place in places:
        if (place / "internal" / "pycore_frame.h").exists():
            found.setdefault(patch_of(place), place)
    return found


def fetch(kept: Path) -> list[str]:
    """Get the headers that Debian has; return what could not be had, and why."""
    missing = []
    for suite in SUITES.get(sys.version_info[:2], ()):
        target = kept / suite
        if (target / "usr" / "include" / TAG).exists():
            continue
        if shutil.which("apt-get") is None:
            missing.append(f"Debian {suite}: no apt-get here")
            continue
        with tempfile.TemporaryDirectory(prefix="conprof-headers-") as scratch:
            problem = _download(suite, Path(scratch), target)
        if problem:
            missing.append(f"Debian {suite}: {problem}")
    return missing


def _download(suite: str, scratch: Path, target: Path) -> str:
    """Unpack a suite's package of headers, with lists of packages of its own; "" or the problem."""
    sources = scratch / "sources.list"
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    signed = f"[signed-by={keyring}] " if Path(keyring).exists() else ""
    sources.write_text(f"deb {signed}{MIRROR} {suite} main\n")
    (scratch / "lists" / "partial").mkdir(parents=True)
    options = [
        f"-oDir::Etc::SourceList={sources}",
        "-oDir::Etc::SourceParts=-",
        f"-oDir::State::Lists={scratch / 'lists'}",
        f"-oDir::Cache={scratch}",
        "-oAcquire::Check-Valid-Until=false",
        "-oAPT::Sandbox::User=root",
        "-oAcquire::Languages=none",
    ]
    for command in (["update"], ["download", f"lib{TAG}-dev"]):
        done = _run(["apt-get", "-qq", *options, *command], scratch)
        if done.returncode != 0:
            return (done.stderr.strip().splitlines() or ["apt-get failed"])[-1]
    packages = list(scratch.glob("*.deb"))
    if not packages:
        return "the package has no such file"
    target.mkdir(parents=True, exist_ok=True)
    done = _run(["dpkg", "-x", str(packages[0]), str(target)], scratch)
    return done.stderr.strip()


def _run(command: list[str], where: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=where, capture_output=True, text=True, check=False, timeout=300
    )
