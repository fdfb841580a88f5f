"""What the tests of the handler share: both engines."""

from __future__ import annotations

import os

import pytest

from conprof_core import EngineUnavailableError
from conprof_core._engine import choose


@pytest.fixture(params=["native", "portable"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an engine, which is also what CONPROF_ENGINE demands during the test."""
    name: str = request.param
    forced = os.environ.get("CONPROF_ENGINE")
    if forced not in (None, name):
        pytest.skip(f"CONPROF_ENGINE={forced} forces the other engine")
    try:
        choose(name)
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("CONPROF_ENGINE", name)
    return name
