"""labels() and request scopes: what the current context shows, in every way code can be entered."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from conprof_core import _cells, _labels, _scope, label_set, labels, request_scope
from conprof_core._labels import clean_labels, context_var


def current() -> dict[str, str]:
    """Return the labels a sample taken now would get."""
    cell = context_var.get()
    return {} if cell is None else dict(cell.labels.items())


@pytest.fixture
def sampling() -> Iterator[None]:
    """Request scopes work only while a profiler runs."""
    _scope.set_sampling(True)
    yield
    _scope.set_sampling(False)


def test_nested_labels_are_merged_and_the_inner_wins() -> None:
    with labels(a="1", b="1"):
        with labels({"http.route": "/x"}, b="2"):
            assert current() == {"a": "1", "b": "2", "http.route": "/x"}
        assert current() == {"a": "1", "b": "1"}
    assert current() == {}


def test_an_exception_leaves_the_block_and_restores() -> None:
    with pytest.raises(KeyError), labels(a="1"):
        raise KeyError
    assert current() == {}


def test_decorator_on_function_keeps_name_and_result() -> None:
    @labels(job="invoice")
    def work(x: int) -> tuple[int, dict[str, str]]:
        """Doc."""
        return x + 1, current()

    assert work(1) == (2, {"job": "invoice"})
    assert (work.__name__, work.__doc__) == ("work", "Doc.")
    assert current() == {}


def test_decorator_recursion() -> None:
    @labels(job="deep")
    def work(depth: int) -> dict[str, str]:
        return work(depth - 1) if depth else current()

    assert work(50) == {"job": "deep"}
    assert current() == {}


def test_decorator_on_coroutine_function() -> None:
    @labels(job="a")
    async def work() -> dict[str, str]:
        await asyncio.sleep(0)
        return current()

    async def main() -> None:
        assert await work() == {"job": "a"}
        assert current() == {}

    asyncio.run(main())


def test_decorator_on_generator_labels_its_steps_and_not_its_consumer() -> None:
    closed: list[dict[str, str]] = []

    @labels(job="gen")
    def numbers() -> Iterator[dict[str, str]]:
        try:
            sent = yield current()
            assert sent == "hello"
            try:
                yield current()
            except ValueError:
                yield {"caught": "yes", **current()}
        finally:
            closed.append(current())

    with labels(outer="1"):
        generator = numbers()
        assert next(generator) == {"job": "gen", "outer": "1"}
        assert current() == {"outer": "1"}
        assert generator.send("hello") == {"job": "gen", "outer": "1"}  # type: ignore[attr-defined]
        thrown = generator.throw(ValueError)  # type: ignore[attr-defined]
        assert thrown == {"caught": "yes", "job": "gen", "outer": "1"}
        generator.close()  # type: ignore[attr-defined]
    assert closed == [{"job": "gen", "outer": "1"}]


def test_decorated_generator_returns_its_value() -> None:
    @labels(job="gen")
    def work() -> Iterator[int]:
        yield 1
        return 7

    def outer() -> Iterator[int]:
        result.append((yield from work()))  # type: ignore[func-returns-value, misc]

    result: list[int] = []
    assert list(outer()) == [1]
    assert result == [7]


def test_decorator_on_async_generator() -> None:
    @labels(job="agen")
    async def numbers() -> AsyncIterator[dict[str, str]]:
        yield current()
        await asyncio.sleep(0)
        yield current()

    async def main() -> None:
        seen = []
        async for item in numbers():
            assert current() == {}
            seen.append(item)
        assert seen == [{"job": "agen"}] * 2

    asyncio.run(main())


def test_async_with_and_exit_stack() -> None:
    async def main() -> None:
        async with labels(a="1"):
            assert current() == {"a": "1"}

    asyncio.run(main())
    with ExitStack() as stack:
        stack.enter_context(labels(a="1"))
        stack.enter_context(labels(b="2"))
        assert current() == {"a": "1", "b": "2"}
    assert current() == {}


def test_interleaved_tasks_share_one_object_and_keep_apart() -> None:
    shared = labels(job="shared")

    async def work(name: str, first: asyncio.Event, then: asyncio.Event) -> None:
        with shared, labels(task=name):
            first.set()
            await then.wait()
            assert current() == {"job": "shared", "task": name}
        assert current() == {}

    async def main() -> None:
        a, b = asyncio.Event(), asyncio.Event()
        await asyncio.gather(work("a", a, b), work("b", b, a))

    asyncio.run(main())


def test_child_tasks_threads_and_pools_inherit_through_their_context() -> None:
    async def child() -> dict[str, str]:
        return current()

    async def main() -> None:
        with labels(a="1"):
            assert await asyncio.create_task(child()) == {"a": "1"}
            assert await asyncio.to_thread(current) == {"a": "1"}

    asyncio.run(main())
    with labels(a="2"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(contextvars.copy_context().run, current).result() == {"a": "2"}
        seen: list[dict[str, str]] = []
        thread = threading.Thread(target=lambda: seen.append(current()))
        thread.start()
        thread.join()
        assert seen in ([{}], [{"a": "2"}])  # from 3.14 on a free-threaded build inherits


def test_leaving_in_another_context_does_nothing() -> None:
    scope = labels(a="1")
    context = contextvars.copy_context()
    context.run(scope.__enter__)
    scope.__exit__()
    assert current() == {}
    assert context.run(current) == {"a": "1"}


@pytest.mark.parametrize(
    ("given", "held"),
    [
        ({"a": 1, "b": None}, {"a": "1", "b": "None"}),
        ({"k": "x" * 201}, {"k": "x" * 199 + "…"}),
        ({"a-b": "1"}, {"a_b": "1"}),
        ({"1a": "1"}, {"_1a": "1"}),
        ({"": "1"}, {"_": "1"}),
        ({"a,b": "1,2"}, {"a_b": "1,2"}),
        ({"ключ": "v"}, {"____": "v"}),
    ],
)
def test_labels_that_cannot_travel_are_cleaned(
    given: dict[str, object], held: dict[str, str]
) -> None:
    assert clean_labels(given) == held


def test_hostile_values_never_raise() -> None:
    class Hostile:
        def __str__(self) -> str:
            raise RuntimeError

    assert clean_labels({"a": Hostile()}) == {"a": "<unprintable>"}
    assert clean_labels({Hostile(): "v"}) == {"_unprintable": "v"}  # type: ignore[dict-item]
    assert len(clean_labels({f"k{i}": i for i in range(1000)})) == 32


def test_request_scope_binds_what_was_entered_before(sampling: None) -> None:
    scope = request_scope({"http.route": "<unmatched>"})
    with scope:
        early = context_var.get()
        inherited = contextvars.copy_context()
        with labels(job="x"):
            nested = context_var.get()
        assert current() == {"http.route": "<unmatched>"}
        scope.bind({"http.route": "/items/{id}"})
        assert current() == {"http.route": "/items/{id}"}
    assert current() == {}
    assert early is not None
    assert nested is not None
    assert dict(early.labels.items()) == {"http.route": "/items/{id}"}
    assert dict(nested.labels.items()) == {"http.route": "/items/{id}", "job": "x"}
    assert inherited.run(current) == {"http.route": "/items/{id}"}


def test_a_prepared_set_takes_the_place_of_the_base(sampling: None) -> None:
    with request_scope(label_set({"m": "GET"}), late=lambda: None) as scope:
        assert current() == {"m": "GET"}
        scope.bind(label_set({"m": "GET", "http.route": "/"}))
        assert current() == {"m": "GET", "http.route": "/"}
    with labels(tier="web"), request_scope(label_set({"m": "GET"})) as scope:
        scope.bind({"http.route": "/"})
        assert current() == {"tier": "web", "m": "GET", "http.route": "/"}
        scope.bind(label_set({"http.route": "/x"}))
        assert current() == {"tier": "web", "http.route": "/x"}


def test_request_scope_keeps_what_is_around_it(sampling: None) -> None:
    with labels(tier="web"), request_scope({"http.route": "-"}) as scope:
        assert current() == {"tier": "web", "http.route": "-"}
        scope.bind({"http.route": "/"})
        assert current() == {"tier": "web", "http.route": "/"}


def test_request_scope_finished_elsewhere_or_twice(sampling: None) -> None:
    scope = request_scope({"a": "1"})
    context = contextvars.copy_context()
    context.run(scope.enter)
    scope.exit()
    scope.exit()
    assert current() == {}
    scope.bind({"a": "2"})
    assert context.run(current) == {"a": "2"}


def test_request_scope_is_inert_without_a_profiler() -> None:
    with request_scope({"a": "1"}) as scope:
        scope.bind({"a": "2"})
        assert current() == {}


def test_the_python_twin_caps_and_recovers() -> None:
    kept = [_cells.intern_labels({"n": str(n)}) for n in range(_cells.MAX_LABEL_SETS + 50)]
    overflow = _cells.intern_labels({"n": "one too many"})
    assert overflow.items() == _cells.OVERFLOW_ITEMS
    assert kept[-1] is overflow
    del kept
    assert _cells.intern_labels({"n": "later"}).items() == (("n", "later"),)


def test_twin_and_extension_agree() -> None:
    native = pytest.importorskip("conprof_core._native", exc_type=ImportError)
    if not hasattr(native, "LabelCell"):
        pytest.skip("the sources alone import as an empty namespace")
    for kind in (native, _cells):
        assert kind.intern_labels({"b": "2", "a": "1"}).items() == (("a", "1"), ("b", "2"))
        assert kind.intern_labels([("a", "1"), ("a", "2")]).items() == (("a", "2"),)
        first = kind.LabelCell(kind.intern_labels({"r": "-"}), provisional=True)
        second = kind.LabelCell(kind.intern_labels({}))
        assert 0 < first.id < second.id
        assert (first.provisional, second.provisional) == (True, False)
        first.bind(kind.intern_labels({"r": "/x"}))
        assert not first.provisional
        assert first.labels.items() == (("r", "/x"),)
        assert isinstance(kind.context_var, contextvars.ContextVar)


def test_nested_scopes_follow_both_routes(sampling: None) -> None:
    with request_scope({"outer": "-"}) as outer, request_scope({"inner": "-"}) as inner:
        inner.bind({"inner": "/i"})
        assert current() == {"outer": "-", "inner": "/i"}
        outer.bind({"outer": "/o"})
        assert current() == {"outer": "/o", "inner": "/i"}


def test_endless_labels_in_one_request_stay_bounded(sampling: None) -> None:
    with request_scope({"r": "-"}) as scope:
        for number in range(2_000):
            with labels(n=number):
                pass
        assert max(map(len, _labels.nested_cells.values())) <= 256
        scope.bind({"r": "/"})
    assert not _labels.nested_cells


def test_late_scope_is_asked_when_a_window_closes(sampling: None) -> None:
    known: dict[str, str] | None = None
    with request_scope({"r": "-"}, late=lambda: known):
        _scope.settle()
        assert current() == {"r": "-"}
        known = {"r": "/x"}
        _scope.settle()
        assert current() == {"r": "/x"}
    assert not _scope._in_flight


def test_requests_are_counted_by_route_once(sampling: None) -> None:
    _scope.take_requests()
    for number in range(10_000):
        scope = request_scope(label_set({"m": "GET"})).enter()
        scope.bind(label_set({"m": "GET", "http.route": f"/{number % 2}"}))
        scope.exit()
    with request_scope({}) as scope:
        scope.bind({"http.route": "/1"})
        scope.bind({"http.route": "/1"})
    with request_scope({"job": "x"}) as scope:
        scope.bind({"other": "/"})
    assert _scope.take_requests() == {"/0": 5000, "/1": 5001}
    assert _scope.take_requests() == {}


def test_requests_of_many_threads_are_all_counted(sampling: None) -> None:
    _scope.take_requests()
    bound = label_set({"http.route": "/"})
    taken: list[int] = []

    def serve() -> None:
        for _ in range(20_000):
            with request_scope({}) as scope:
                scope.bind(bound)

    threads = [threading.Thread(target=serve) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        taken.append(_scope.take_requests().get("/", 0))
    taken.append(_scope.take_requests().get("/", 0))
    assert len([count for count in taken if count]) > 1, "taken while they were counted"
    assert sum(taken) == 80_000
