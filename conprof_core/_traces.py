"""Ids of the span that a request or a job is, as the tracer of the application sees it.

They travel with the samples; ``docs/traces.md`` says what for. Imported when ``trace_ids`` asks for
it, and no tracer is ever imported: what the application has not loaded has no spans.

Why cells and not the tracers' own context variables: a sample is taken in a signal handler, where
no Python object but our own may be read. So the ids of the *root* span of this process are put into
the label cell, once for each request, and go wherever the cell goes: child tasks, threads, pools.

* OpenTelemetry tells a span processor (``conprof_core.otel``) when a span begins. A server span
  gives its ids to the cell of the request around it, also for samples taken before. Any other root
  span gets a cell of its own until it ends.
* ddtrace and Sentry are asked when a request or a ``labels()`` block begins, and when the route of
  a request becomes known.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import Token
from typing import TYPE_CHECKING, Any, Final

from conprof_core import _labels, _log, _tracking
from conprof_core._labels import context_var, intern_labels

if TYPE_CHECKING:
    from conprof_core._cells import LabelCell

__all__ = ["began", "ended", "install", "uninstall"]

_MAX_OPEN: Final = 4_096
_LOW: Final = (1 << 64) - 1

_open: dict[int, tuple[LabelCell, Token[LabelCell | None]]] = {}
"""Id of a root span → the cell that stands while it lasts, and what tells in which context, and
what stood there before. Bounded: a span that never ends gives way to later ones."""

_readers: tuple[Callable[[], tuple[int, int] | None], ...] = ()
_follows_otel = False
marks_spans = False
"""Whether spans are to say that there is a profile of them, as Grafana wants it."""

_providers: list[Any] = []
"""OpenTelemetry's provider that has our processor, which cannot be taken out again."""


def install(source: str, *, mark_spans: bool = False) -> None:
    """Begin to take ids from ``otel``, ``ddtrace``, ``sentry`` or, with ``auto``, all of them."""
    global _readers, _follows_otel, marks_spans
    marks_spans = mark_spans
    _follows_otel = source in ("otel", "auto")
    known = {"ddtrace": _ddtrace_root, "sentry": _sentry_root}
    _readers = tuple(reader for name, reader in known.items() if source in (name, "auto"))
    _labels.read_trace = _read
    if _follows_otel:
        _follow_otel()


def uninstall() -> None:
    """Take no more ids. What cells have stays with them."""
    global _readers, _follows_otel
    _labels.read_trace = None
    _readers = ()
    _follows_otel = False
    _open.clear()


def _read(cell: LabelCell) -> None:
    """Give a cell that begins, or is bound, the ids of the root span around it. Never raises."""
    with _log.guard("traces"):
        if _follows_otel and _follow_otel():
            return
        if cell.trace is None:
            for reader in _readers:
                ids = reader()
                if ids is not None:
                    _give(cell, *ids)
                    return


def _give(cell: LabelCell, trace_id: int, span_id: int) -> bool:
    """Set the ids of a cell and of those entered below it; ``False`` when it had some."""
    if not cell.set_trace(trace_id >> 64 & _LOW, trace_id & _LOW, span_id & _LOW):
        return False
    for nested, _ in list(_labels.nested_cells.get(cell.id, ())):
        _give(nested, trace_id, span_id)
    return True


# Tracers that tell when a span begins and ends ---------------------------------------------------


def began(trace_id: int, span_id: int, *, is_request: bool) -> bool:
    """Note that a root span begins in the current context; returns whether its ids are taken.

    Args:
        trace_id: 128 bits.
        span_id: 64 bits.
        is_request: it stands for a whole request: the cell around it, if it waits for its route
            and has no ids yet, is of the same request and shares them.
    """
    if not _follows_otel:
        return False
    outer = context_var.get()
    if span_id in _open:
        return True  # told twice
    if outer is not None and is_request and outer.provisional:
        if outer.trace == (trace_id >> 64, trace_id & _LOW, span_id):
            return True
        if _give(outer, trace_id, span_id):
            return True
    cell = _labels.compose(intern_labels(()), outer, keeps_trace=False)
    _give(cell, trace_id, span_id)
    while len(_open) >= _MAX_OPEN:
        _open.pop(next(iter(_open)), None)
    _open[span_id] = (cell, context_var.set(cell))
    _tracking.note(cell)
    return True


def ended(span_id: int) -> None:
    """Note that a root span ends: its cell is left."""
    found = _open.pop(span_id, None)
    if found is None:
        return
    cell, token = found
    is_current = context_var.get() is cell
    try:
        if is_current:
            context_var.reset(token)
    except ValueError:
        # In a copy of the context in which it began, and which may go on with something else.
        is_current = False
        context_var.set(None if token.old_value is Token.MISSING else token.old_value)
    _tracking.note(context_var.get())
    if not is_current:
        cell.end_trace()


def _follow_otel() -> bool:
    """Add our processor to OpenTelemetry's provider once there is one; whether that is done."""
    api = sys.modules.get("opentelemetry.trace")
    # get_tracer_provider() would choose one if the environment names it, ahead of the application.
    provider = getattr(api, "_TRACER_PROVIDER", None)
    if provider is None:
        return False
    if not any(known is provider for known in _providers):
        add = getattr(provider, "add_span_processor", None)
        if add is None:
            return False
        # Imported here: it imports this module.
        from conprof_core.otel import ConprofSpanProcessor

        _providers.append(provider)
        add(ConprofSpanProcessor())
    _labels.read_trace = None
    return True


# Tracers that are asked --------------------------------------------------------------------------


def _ddtrace_root() -> tuple[int, int] | None:
    tracer = getattr(sys.modules.get("ddtrace.trace"), "tracer", None)
    root = None if tracer is None else tracer.current_root_span()
    return None if root is None else (root.trace_id, root.span_id)


def _sentry_root() -> tuple[int, int] | None:
    get_span = getattr(sys.modules.get("sentry_sdk"), "get_current_span", None)
    span = None if get_span is None else get_span()
    root = getattr(span, "containing_transaction", None)
    # What is not sampled is sent nowhere, so there would be nothing to look at.
    if root is None or not root.sampled:
        return None
    return int(root.trace_id, 16), int(root.span_id, 16)
