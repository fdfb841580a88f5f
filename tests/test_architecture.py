"""The import rules and size limits of the code base, as tests.

The rules: adapters use only the public names of ``conprof_core`` and their own framework; the core
knows no framework; exporters receive bytes and metadata, never an engine; nothing imports upward or
in a circle; in C only ``compat.h`` knows the version of Python.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("conprof_core", "conprof_django", "conprof_flask", "conprof_asgi")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
C_SOURCES = sorted((ROOT / "conprof_core" / "_native").glob("*.[ch]"))

MAX_LINES = {".py": 400, ".c": 600, ".h": 600}
MAX_TEST_LINES = 500

FRAMEWORKS = {
    "django": {"conprof_django"},
    "flask": {"conprof_flask"},
    "werkzeug": {"conprof_flask"},
    "starlette": {"conprof_asgi", "conprof_core.agent"},
    "fastapi": {"conprof_asgi"},
    "uvicorn": {"conprof_core.agent"},
    "duckdb": {"conprof_core.agent"},
    "gunicorn": set(),
    "google.protobuf": set(),
    "opentelemetry": set(),
    "ddtrace": set(),
    "sentry_sdk": set(),
}

# Lowest first: a module may import, at import time, only from its own layer or a lower one.
LAYERS = (
    (
        "conprof_core.errors",
        "conprof_core._version",
        "conprof_core._limits",
        "conprof_core._loopback",
        "conprof_core._control",
        "conprof_core._otel",
        "conprof_core._span",
        "conprof_core._text",
        "conprof_core._wire",
    ),
    ("conprof_core._native", "conprof_core._log", "conprof_core._threads", "conprof_core._cells"),
    (
        "conprof_core._labels",
        "conprof_core._tracking",
        "conprof_core._servers",
        "conprof_core._standby",
        "conprof_core._turns",
        "conprof_core._held_gc",
    ),
    (
        "conprof_core._carry",
        "conprof_core._scope",
        "conprof_core._traces",
        "conprof_core._http",
        "conprof_core.exporters.naming",
    ),
    (
        "conprof_core._engine",
        "conprof_core._merge",
        "conprof_core._tables",
        "conprof_core._pprof",
        "conprof_core._otlp",
        "conprof_core._tasks_text",
    ),
    (
        "conprof_core._agent_socket",
        "conprof_core._config",
        "conprof_core._option_values",
        "conprof_core._options",
        "conprof_core._process",
        "conprof_core.exporters",
    ),
    (
        "conprof_core._control_file",
        "conprof_core._control_signal",
        "conprof_core._controls",
        "conprof_core._cuts",
        "conprof_core._fork",
        "conprof_core._sending",
        "conprof_core._tasks_socket",
        "conprof_core._window",
    ),
    ("conprof_core._loop",),
    ("conprof_core._session",),
    ("conprof_core._state",),
    ("conprof_core._profiler",),
    ("conprof_core._reconfigure",),
    (
        "conprof_core",
        "conprof_core.testing",
        "conprof_core.jobs",
        "conprof_core.otel",
        "conprof_core.pull",
    ),
    ("conprof_core.agent",),
    ("conprof_core.cli",),
    ("conprof_django", "conprof_flask", "conprof_asgi"),
)

# Modules of the core that are public besides the package itself.
PUBLIC_MODULES = ("conprof_core.errors", "conprof_core.testing", "conprof_core.pull")

# What an exporter must never see: it is given bytes and metadata.
AGGREGATION = (
    "_engine",
    "_native",
    "_merge",
    "_pprof",
    "_otlp",
    "_window",
    "_loop",
    "_state",
    "_profiler",
)


@dataclass(frozen=True)
class Import:
    """One import of one module, as written."""

    importer: str
    target: str  # the module
    names: tuple[str, ...]
    line: int
    at_import_time: bool  # neither inside a function nor under TYPE_CHECKING
    typing_only: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target} ({', '.join(self.names)})"


def module_name(path: Path) -> str:
    """Return the dotted name of a source file."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> list[Import]:
    """Return every import of a file, those inside functions and ``TYPE_CHECKING`` marked."""
    found: list[Import] = []
    importer = module_name(path)
    is_package = path.name == "__init__.py"

    def visit(node: ast.AST, deferred: bool, typing_only: bool) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.append(
                    Import(importer, alias.name, (), node.lineno, not deferred, typing_only)
                )
        elif isinstance(node, ast.ImportFrom):
            target = node.module or ""
            if node.level:
                base = importer.split(".")
                base = base[: len(base) - node.level + is_package]
                target = ".".join([*base, target] if target else base)
            names = tuple(alias.name for alias in node.names)
            found.append(Import(importer, target, names, node.lineno, not deferred, typing_only))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                visit(child, True, True)
            for child in node.orelse:
                visit(child, deferred, typing_only)
            return
        inside = deferred or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside, typing_only)

    visit(ast.parse(path.read_text()), False, False)
    return found


MODULES = {module_name(path) for path in SOURCES} | {"conprof_core._native"}
IMPORTS = [item for path in SOURCES for item in imports_of(path)]


def resolved(item: Import) -> set[str]:
    """Return the modules of ours that an import really means."""
    submodules = {f"{item.target}.{name}" for name in item.names} & MODULES
    plain = len(submodules) < max(len(item.names), 1)
    return submodules | ({item.target} if plain and item.target in MODULES else set())


def layer_of(module: str) -> int:
    """Return the layer of a module, by the longest prefix in ``LAYERS``."""
    known = {name: index for index, layer in enumerate(LAYERS) for name in layer}
    prefix = module
    while prefix not in known or (prefix == "conprof_core" and module != "conprof_core"):
        prefix, dot, _ = prefix.rpartition(".")
        assert dot, f"{module} stands in no layer: give it one in LAYERS"
    return known[prefix]


def within(module: str, package: str) -> bool:
    """Tell whether a module is a package or inside it."""
    return module == package or module.startswith(package + ".")


def test_there_is_something_to_check() -> None:
    assert len(SOURCES) > 20
    assert len(C_SOURCES) > 20
    assert len(IMPORTS) > 100


def test_adapters_use_only_public_names_of_the_core() -> None:
    public = set(ast.literal_eval(_assigned(ROOT / "conprof_core" / "__init__.py", "__all__")))
    offences = []
    for item in IMPORTS:
        if within(item.importer, "conprof_core") or not within(item.target, "conprof_core"):
            continue
        if any(part.startswith("_") for part in item.target.split(".")):
            offences.append(str(item))
        elif item.target == "conprof_core":
            offences += [f"{item}: {name}" for name in item.names if name not in public]
        elif item.target not in PUBLIC_MODULES:
            offences.append(str(item))
    assert offences == []


def test_adapters_do_not_know_each_other() -> None:
    adapters = PACKAGES[1:]
    offences = [
        str(item)
        for item in IMPORTS
        for adapter in adapters
        if within(item.target, adapter) and not within(item.importer, adapter)
    ]
    assert offences == []


def test_a_framework_is_imported_only_where_it_belongs() -> None:
    offences = [
        str(item)
        for item in IMPORTS
        for framework, homes in FRAMEWORKS.items()
        if within(item.target, framework)
        and not any(within(item.importer, home) for home in homes)
        and not within(item.importer, "conprof_core.cli")  # demo and agent start servers
    ]
    assert offences == []


def test_command_line_defers_frameworks() -> None:
    offences = [
        str(item)
        for item in IMPORTS
        if within(item.importer, "conprof_core.cli")
        and item.at_import_time
        and any(within(item.target, framework) for framework in FRAMEWORKS)
    ]
    assert offences == []


def test_requests_is_imported_late() -> None:
    offences = [
        str(item) for item in IMPORTS if within(item.target, "requests") and item.at_import_time
    ]
    # Modules that are themselves imported late, when the first upload is due.
    assert [text for text in offences if "exporters._transport" not in text] == []


def test_exporters_never_see_an_engine() -> None:
    offences = [
        str(item)
        for item in IMPORTS
        if within(item.importer, "conprof_core.exporters")
        for target in resolved(item)
        if any(within(target, f"conprof_core.{name}") for name in AGGREGATION)
    ]
    assert offences == []


def test_nothing_imports_upward() -> None:
    offences = [
        f"{item} (layer {layer_of(item.importer)} → {layer_of(target)})"
        for item in IMPORTS
        if item.at_import_time
        for target in resolved(item)
        if layer_of(target) > layer_of(item.importer)
    ]
    assert offences == []


def test_nothing_imports_in_a_circle() -> None:
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for item in IMPORTS:
        if item.at_import_time:
            graph[item.importer] |= resolved(item) - {item.importer}
    done: set[str] = set()

    def follow(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join([*path[path.index(module) :], module])
        if module in done:
            return
        for target in sorted(graph[module]):
            follow(target, (*path, module))
        done.add(module)

    for module in sorted(graph):
        follow(module, ())


def test_no_module_is_called_utils() -> None:
    vague = {"utils", "util", "helpers", "misc", "common"}
    assert [path for path in SOURCES if path.stem.strip("_") in vague] == []


@pytest.mark.parametrize("path", SOURCES + C_SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_fits_on_a_few_screens(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES[path.suffix]


def test_tests_fit_too() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / "tests").rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > MAX_TEST_LINES
    }
    assert long == {}


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_every_package_is_typed() -> None:
    assert [package for package in PACKAGES if not (ROOT / package / "py.typed").exists()] == []


def test_only_compat_h_knows_the_version_of_python() -> None:
    offences = [
        f"{path.name}:{number}"
        for path in C_SOURCES
        if path.name != "compat.h"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\bPY_(VERSION_HEX|MAJOR_VERSION|MINOR_VERSION)\b", line)
    ]
    assert offences == []


def test_native_code_exports_only_its_init_function() -> None:
    """What is visible to the rest of the process can clash with it."""
    import subprocess

    try:
        from conprof_core import _native
    except ImportError:
        pytest.skip("no C extension in this installation")
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", str(_native.__file__)], capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("no nm on this machine")
    names = {line.split()[-1] for line in listed.stdout.splitlines()}
    assert names - {"_init", "_fini", "__bss_start", "_edata", "_end"} == {"PyInit__native"}


def _assigned(path: Path, name: str) -> ast.expr:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return node.value
    raise AssertionError(f"{path.name} does not assign {name}")
