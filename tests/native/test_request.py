"""The scope of a request in C: what most requests do, and that all else goes to Python."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from conprof_core import _labels, _log, _scope, label_set, labels, request_scope

pytest.importorskip("conprof_core._native")
pytestmark = pytest.mark.native_core

BASE = label_set({"http.request.method": "GET"})
ROUTE = label_set({"http.request.method": "GET", "http.route": "/x"})


@pytest.fixture(autouse=True)
def sampling() -> Iterator[None]:
    _scope.take_requests()
    _scope.set_sampling(True)
    yield
    _scope.set_sampling(False)
    _scope.forget()


@pytest.fixture
def errors_raise(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have internal errors come out, which are else swallowed."""
    monkeypatch.setattr(_log, "raise_internal_errors", True)
    yield
    _log.forget_internal_errors()


@pytest.fixture
def no_python(errors_raise: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the Python methods fail."""

    def fail(self: object, *_: object) -> Any:
        raise AssertionError("Python was called")

    for name in ("_enter", "_bind", "_exit"):
        monkeypatch.setattr(_scope.RequestScope, name, fail)


def current() -> dict[str, str]:
    cell = _labels.context_var.get()
    return {} if cell is None else dict(cell.labels.items())


def test_most_requests_need_no_python(no_python: None) -> None:
    with request_scope(BASE, lambda: ROUTE) as scope:
        assert current() == {"http.request.method": "GET"}
        assert scope in _scope._in_flight
        scope.bind(ROUTE)
        assert current() == {"http.request.method": "GET", "http.route": "/x"}
        assert scope not in _scope._in_flight
    assert current() == {}
    assert _scope.take_requests() == {"/x": 1}


def test_a_mapping_goes_to_python(no_python: None) -> None:
    with pytest.raises(AssertionError, match="Python was called"):
        request_scope({"a": "1"}).enter()
    scope = request_scope(BASE).enter()
    with pytest.raises(AssertionError, match="Python was called"):
        scope.bind({"a": "1"})
    scope.exit()


def test_labels_around_it_go_to_python(no_python: None) -> None:
    with labels(tier="web"):
        with pytest.raises(AssertionError, match="Python was called"):
            request_scope(BASE).enter()


def test_labels_entered_within_it_go_to_python(no_python: None) -> None:
    with request_scope(BASE) as scope, labels(tier="web"):
        with pytest.raises(AssertionError, match="Python was called"):
            scope.bind(ROUTE)
    _labels.context_var.set(None)


def test_trace_ids_go_to_python(no_python: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_labels, "read_trace", lambda cell: None)
    with pytest.raises(AssertionError, match="Python was called"):
        request_scope(BASE).enter()


def test_nothing_without_a_profiler(no_python: None) -> None:
    _scope.set_sampling(False)
    with request_scope(BASE, lambda: ROUTE) as scope:
        assert current() == {}
        scope.bind(ROUTE)
    assert not _scope._in_flight
    assert not _scope.take_requests()


def test_requests_are_counted_beyond_what_is_held_back(no_python: None) -> None:
    for _ in range(5_000):
        with request_scope(BASE) as scope:
            scope.bind(ROUTE)
            scope.bind(ROUTE)
    assert 0 < len(_scope._bound) < 5_000, "the premise: they were counted in between"
    assert _scope.take_requests() == {"/x": 5_000}


def test_ended_elsewhere_or_twice(no_python: None) -> None:
    first = request_scope(BASE).enter()
    _labels.context_var.set(None)
    second = request_scope(ROUTE).enter()
    first.exit()
    assert current()["http.route"] == "/x"
    second.exit()
    second.exit()
    assert current() == {}


def test_what_asks_itself_for_labels_is_collected() -> None:
    class Request(_scope.RequestScope):
        __slots__ = ("__weakref__",)

        def __init__(self) -> None:
            super().__init__(BASE, self.known)

        def known(self) -> None:
            return None

    request = Request()
    request.enter()
    request.bind(ROUTE)
    request.exit()
    seen = weakref.ref(request)
    gc.disable()
    try:
        del request
        assert seen() is None, "no cycle stays"
    finally:
        gc.enable()
    # One that was never entered is a cycle, which the collector finds.
    seen = weakref.ref(Request())
    gc.collect()
    assert seen() is None


def test_without_its_init(errors_raise: None) -> None:
    class Bare(_scope.RequestScope):
        __slots__ = ()

        def __init__(self) -> None:
            pass

    bare = Bare()
    bare.bind(ROUTE)
    bare.exit()
    with pytest.raises(AttributeError):
        bare.enter()
    assert current() == {}
