"""These tests are about the native engine: they have nothing to say of another one."""

from __future__ import annotations

import os

import pytest

from conprof_core import _native


@pytest.fixture(autouse=True)
def needs_native_engine() -> None:
    """Skip where the extension was not built, or the portable engine was demanded."""
    # The directory of its sources alone imports, too, as an empty namespace.
    if not hasattr(_native, "self_test"):
        pytest.skip("the C extension is not part of this installation")
    if os.environ.get("CONPROF_ENGINE") == "portable":
        pytest.skip("the portable engine was demanded")
