"""Says at the end which receivers were real."""

from __future__ import annotations

import pytest

from conformance.receivers import BINARIES, INSTEAD


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write a line for each receiver."""
    terminalreporter.section("receivers")
    for name, path in BINARIES.items():
        said = f"real, {path}" if path else f"none: CONPROF_{name.upper()} names no binary"
        instead = "" if path else f"; {INSTEAD[name]}"
        terminalreporter.write_line(f"{name}: {said}{instead}")
