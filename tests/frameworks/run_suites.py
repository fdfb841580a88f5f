"""Runs the frameworks' own test suites with and without conprof and compares the results.

    python tests/frameworks/run_suites.py [django] [flask] [starlette]

Each suite comes from the source distribution of the version that is installed, fetched with pip.
With conprof the profiler runs from the first test to the last and the adapter stands in every
application the suite makes; results are compared test by test, by name. Ends with 1 if any differs.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

# Differences that are understood and kept.
KNOWN = {
    "tests/test_basic.py::test_app_freed_on_zero_refcount": (
        "any wrapper of app.wsgi_app, as Flask documents it, refers back to the app; "
        "the garbage collector frees both"
    ),
}
DJANGO_SUITES = ["urlpatterns_reverse", "requests_tests", "handlers", "asgi"]
LINE = re.compile(
    r"^(?P<name>\S.*?) \.\.\. (?:.*\s)?(?P<outcome>ok|FAIL|ERROR|skipped.*|expected failure)$"
)
PYTEST_LINE = re.compile(
    r"^(?P<name>\S+::.*?) (?P<outcome>PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b"
)


def fetch(name: str, into: Path) -> Path:
    """Download and unpack the source distribution of the installed version."""
    version = importlib.metadata.version(name)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            ":all:",
            "--dest",
            str(into),
            f"{name}=={version}",
        ],
        check=True,
    )
    archive = next(path for path in into.iterdir() if path.name.lower().startswith(name))
    with tarfile.open(archive) as tar:
        tar.extractall(into, filter="data")
    return next(path for path in into.iterdir() if path.is_dir())


def run(command: list[str], cwd: Path, *, profiled: bool, output: Path) -> dict[str, str]:
    """Run a suite; return outcome by test. Profiles go to ``output``."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("CONPROF", "BLACKFIRE"))}
    environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(ROOT), str(cwd), str(cwd / "src")])
    environ.pop("DJANGO_SETTINGS_MODULE", None)
    if profiled:
        environ["CONPROF_SUITE"] = "1"
        environ["CONPROF_EXPORT_TO"] = f"file://{output}"
        environ["BLACKFIRE_CONPROF_CPU_PROFILERATE"] = "1000"
        environ["BLACKFIRE_CONPROF_PERIOD"] = "5"
    done = subprocess.run(
        command, cwd=cwd, env=environ, text=True, capture_output=True, timeout=900, check=False
    )
    outcomes = {}
    for line in (done.stdout + done.stderr).splitlines():
        found = LINE.match(line) or PYTEST_LINE.match(line)
        if found is not None:
            outcomes[found["name"]] = found["outcome"].split(" ")[0]
    if not outcomes:
        print(done.stdout[-3000:], done.stderr[-3000:], file=sys.stderr)
    return outcomes


def commands(name: str, source: Path) -> tuple[list[str], list[str], Path]:
    """Return the command without and with conprof, and where to run it."""
    if name == "django":
        suite = ["runtests.py", "--verbosity", "2", "--parallel", "1", *DJANGO_SUITES]
        tests = source / "tests"
        return (
            [sys.executable, *suite],
            [sys.executable, str(HERE / "django_suite.py"), *suite],
            tests,
        )
    pytest = [sys.executable, "-m", "pytest", "-v", "--color=no", "-p", "no:cacheprovider"]
    pytest += ["--continue-on-collection-errors", "tests"]
    if name == "starlette":
        pytest += ["-o", "addopts=", "-W", "default", "-p", "anyio"]
    return pytest, [*pytest, "-p", f"{name}_suite"], source


def compare(name: str) -> bool:
    """Run one suite twice and print the comparison; ``True`` if it is the same."""
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        source = fetch(name, here)
        output = here / "profiles"
        output.mkdir()
        plain, profiled, cwd = commands(name, source)
        without = run(plain, cwd, profiled=False, output=output)
        with_it = run(profiled, cwd, profiled=True, output=output)
        profiles = len(list(output.iterdir()))
    different = {
        test: (without.get(test, "absent"), with_it.get(test, "absent"))
        for test in without.keys() | with_it.keys()
        if without.get(test) != with_it.get(test)
    }
    version = importlib.metadata.version(name)
    print(f"{name} {version}: {_count(without)} without conprof")
    print(f"{' ' * len(name)} {' ' * len(version)}  {_count(with_it)} with, {profiles} profiles")
    for test, (before, after) in sorted(different.items()):
        reason = KNOWN.get(test)
        print(f"    {test}: {before} without, {after} with{f' ({reason})' if reason else ''}")
    return bool(without) and different.keys() <= KNOWN.keys() and profiles > 0


def _count(outcomes: dict[str, str]) -> str:
    kinds = sorted(set(outcomes.values()))
    each = ", ".join(f"{sum(v == kind for v in outcomes.values())} {kind}" for kind in kinds)
    return f"{len(outcomes)} tests ({each})"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="frameworks' suites with and without conprof")
    parser.add_argument(
        "names", nargs="*", choices=["django", "flask", "starlette"], metavar="name"
    )
    names = parser.parse_args().names or ["django", "flask", "starlette"]
    results = [compare(name) for name in names]
    print("the same" if all(results) else "DIFFERENT")
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
