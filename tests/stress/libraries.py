"""Tests of libraries that do much of their work in C, with the profiler on: the same results.

    python tests/stress/libraries.py                 all below, where a wheel is to be had
    python tests/stress/libraries.py lxml gevent     only these
    python tests/stress/libraries.py --minutes 20 --state FILE   as far as that; then on

The tests are the libraries' own: those that are installed with them, or those in their source
archive on PyPI, run on the installed wheel. grpcio publishes none; ``calls_grpc.py`` stands for it.
A part of each, so that all take some minutes; the parts are where C code calls Python, threads,
greenlets, large blocks and signals.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stress import measure
from stress.measure import Item

HERE = Path(__file__).resolve().parent
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--junit-xml", "{xml}", "-c", "/dev/null")
INDEX = "https://pypi.org/simple"


@dataclass(frozen=True)
class Library:
    """A library, and which of its tests run.

    Attributes:
        name: on PyPI.
        needs: what its tests import beside it.
        modules: test modules that are installed with it; each is an item.
        folder: of its source archive, where its tests are, or "".
        files: of that folder; each is an item.
        options: of pytest.
    """

    name: str
    needs: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    folder: str = ""
    files: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


LIBRARIES = (
    Library(
        "numpy",
        ("hypothesis",),
        tuple(
            f"numpy.{name}"
            for name in (
                *("_core.tests.test_multithreading", "_core.tests.test_nditer"),
                *("_core.tests.test_mem_policy", "_core.tests.test_indexing"),
                *("_core.tests.test_array_coercion", "_core.tests.test_umath"),
                *("lib.tests.test_function_base", "linalg.tests.test_linalg"),
                "random.tests.test_generator_mt19937",
            )
        ),
        # Checks that build extensions, or ask for gigabytes.
        options=("-m", "not slow"),
    ),
    Library(
        "pandas",
        ("hypothesis",),
        tuple(
            f"pandas.tests.{name}"
            for name in (
                *("groupby.test_apply", "groupby.test_groupby", "frame.test_constructors"),
                *("io.parser.test_multi_thread", "window.test_numba", "test_algos"),
                *("reshape.merge.test_merge", "resample.test_datetime_index"),
            )
        ),
    ),
    Library(
        "lxml",
        folder="src/lxml/tests",
        files=(
            *("test_elementtree.py", "test_etree.py", "test_threading.py", "test_xslt.py"),
            *("test_objectify.py", "test_htmlparser.py", "test_sax.py", "test_nsclasses.py"),
            "test_incremental_xmlfile.py",
        ),
    ),
    Library("grpcio", files=("calls_grpc.py",), options=("--noconftest",)),
    Library(
        "uvloop",
        ("psutil", "pyOpenSSL", "aiohttp"),
        folder="tests",
        files=(
            *("test_base.py", "test_context.py", "test_executors.py", "test_pipes.py"),
            *("test_process.py", "test_process_spawning.py", "test_signals.py"),
            *("test_sockets.py", "test_tcp.py", "test_udp.py", "test_unix.py", "test_runner.py"),
        ),
    ),
    Library(
        "gevent",
        ("psutil", "objgraph", "requests"),
        tuple(
            f"gevent.tests.test__{name}"
            for name in (
                *("greenlet", "greenletset", "event", "events", "queue", "pool", "hub"),
                *("core", "core_async", "core_callback", "core_timer", "core_watcher", "local"),
                *("socket", "socket_timeout", "select", "server", "semaphore", "pywsgi"),
                *("subprocess", "signal"),
                *("threadpool", "threading", "threading_2", "timeout", "sleep0", "os", "order"),
                *("contextvars", "backdoor", "exc_info", "fileobject", "monkey", "lock", "memleak"),
            )
        ),
    ),
)


def install(library: Library) -> str:
    """Install the library and what its tests need; why not, or ""."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
    done = subprocess.run(
        [*command, "pytest", library.name, *library.needs], capture_output=True, text=True
    )
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["pip failed"])[-1]


def source_tests(library: Library, place: Path) -> Path:
    """Return a directory that holds the tests of the version that is installed."""
    version = importlib.metadata.version(library.name)
    target = place / f"{library.name}-{version}"
    folder = target / library.folder
    if folder.exists():
        return folder
    request = urllib.request.Request(
        f"{INDEX}/{library.name}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        files = json.load(answer)["files"]
    (url,) = [file["url"] for file in files if file["filename"] == f"{target.name}.tar.gz"]
    with urllib.request.urlopen(url, timeout=120) as answer:
        data = io.BytesIO(answer.read())
    place.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=data) as archive:
        prefix = f"{target.name}/{library.folder}/"
        members = [member for member in archive.getmembers() if member.name.startswith(prefix)]
        archive.extractall(place, members, filter="data")
    return folder


def items(library: Library, place: Path) -> Iterator[Item]:
    """Yield what is run of an installed library."""
    for module in library.modules:
        yield Item(module, (*PYTEST, *library.options, "--pyargs", module))
    folder = source_tests(library, place) if library.folder else HERE
    for file in library.files:
        command = (*PYTEST, "--rootdir", str(folder), *library.options, str(folder / file))
        yield Item(f"{library.name}/{file}", command)


def main() -> int:
    """Run the tests of the libraries, print a line each, return 1 if one is worse."""
    parser = measure.options(__doc__)
    names = [library.name for library in LIBRARIES]
    parser.add_argument("libraries", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    args = parser.parse_args()
    if unknown := sorted(set(args.libraries) - set(names)):
        parser.error(f"not among the libraries: {', '.join(unknown)}; there are {', '.join(names)}")
    place = Path(sys.prefix, "library-tests")
    found: list[Item] = []
    for library in LIBRARIES:
        if args.libraries and library.name not in args.libraries:
            continue
        if reason := install(library):
            print(f"{library.name}: not run, {reason}", flush=True)
            continue
        print(f"{library.name} {importlib.metadata.version(library.name)}", flush=True)
        found += items(library, place)
    return measure.run_all(found, args)


if __name__ == "__main__":
    raise SystemExit(main())
