"""Runs the frameworks' own test suites with and without conprof and compares the results.

    python tests/frameworks/run_suites.py [django] [flask] [starlette]

Each suite comes from the source distribution of the version that is installed, fetched with pip.
With conprof the profiler runs from the first test to the last and the adapter stands in every
application the suite makes; results are compared test by test, by name. Ends with 1 if any differs.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

# What each suite needs beside its framework; Flask's imports a name that pytest 9.1 took away.
NEEDS = {
    "django": ["django"],
    "flask": ["flask", "asgiref", "greenlet", "pytest<9", "python-dotenv"],
    "starlette": [
        "starlette[full]",
        "blockbuster",
        "httpx2[zstd]",
        "importlib-metadata",
        "opentelemetry-sdk",
        "pytest",
        "sniffio",
        "trio",
    ],
}
MOSTLY = 0.98
"""Of a suite that passes without conprof; of less, sameness would say little."""
DJANGO_SUITES = ["urlpatterns_reverse", "requests_tests", "handlers", "asgi"]
LINE = re.compile(
    r"^(?P<name>\S.*?) \.\.\. (?:.*\s)?(?P<outcome>ok|FAIL|ERROR|skipped.*|expected failure)$"
)
PYTEST_LINE = re.compile(
    r"^(?P<name>\S+::.*?) (?P<outcome>PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b"
)


def environment(name: str, into: Path) -> Path:
    """Make an environment with conprof, the framework and what its suite needs; its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(into)], check=True)
    python = into / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, str(ROOT), *NEEDS[name]], check=True)
    return python


def fetch(name: str, python: Path, into: Path) -> tuple[Path, str]:
    """Download and unpack the source distribution of the installed version."""
    script = f"import importlib.metadata as m; print(m.version({name!r}))"
    version = subprocess.check_output([str(python), "-c", script], text=True).strip()
    pip = [str(python), "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*pip, "--dest", str(into), f"{name}=={version}"], check=True)
    archive = next(path for path in into.iterdir() if path.name.lower().startswith(name))
    with tarfile.open(archive) as tar:
        tar.extractall(into, filter="data")
    return next(path for path in into.iterdir() if path.is_dir()), version


def run(command: list[str], cwd: Path, *, profiled: bool, output: Path) -> dict[str, str]:
    """Run a suite; return outcome by test. Profiles go to ``output``."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("CONPROF", "BLACKFIRE"))}
    environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(cwd), str(cwd / "src")])
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


def commands(name: str, source: Path, python: Path) -> tuple[list[str], list[str], Path]:
    """Return the command without and with conprof, and where to run it."""
    if name == "django":
        suite = ["runtests.py", "--verbosity", "2", "--parallel", "1", *DJANGO_SUITES]
        tests = source / "tests"
        return (
            [str(python), *suite],
            [str(python), str(HERE / "django_suite.py"), *suite],
            tests,
        )
    pytest = [str(python), "-m", "pytest", "-v", "--color=no", "-p", "no:cacheprovider"]
    pytest += ["--continue-on-collection-errors", "tests"]
    if name == "starlette":
        pytest += ["-o", "addopts=", "-W", "default", "-p", "anyio"]
    return pytest, [*pytest, "-p", f"{name}_suite"], source


def compare(name: str) -> bool:
    """Run one suite twice and print the comparison; ``True`` if it is the same."""
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        python = environment(name, here / "venv")
        (here / "source").mkdir()
        source, version = fetch(name, python, here / "source")
        output = here / "profiles"
        output.mkdir()
        plain, profiled, cwd = commands(name, source, python)
        without = run(plain, cwd, profiled=False, output=output)
        with_it = run(profiled, cwd, profiled=True, output=output)
        profiles = len(list(output.iterdir()))
    different = {
        test: (without.get(test, "absent"), with_it.get(test, "absent"))
        for test in without.keys() | with_it.keys()
        if without.get(test) != with_it.get(test)
    }
    print(f"{name} {version}: {_count(without)} without conprof")
    print(f"{' ' * len(name)} {' ' * len(version)}  {_count(with_it)} with, {profiles} profiles")
    for test, (before, after) in sorted(different.items()):
        print(f"    {test}: {before} without, {after} with")
    fine = sum(outcome in ("ok", "PASSED", "skipped", "SKIPPED") for outcome in without.values())
    if fine < MOSTLY * len(without):
        print(f"{name}: the suite does not pass here without conprof either: nothing is shown")
        return False
    return bool(without) and not different and profiles > 0


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
