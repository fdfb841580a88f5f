"""For OpenTelemetry: ids of server spans travel with the samples of their requests.

With ``trace_ids="otel"`` the processor is added to the global tracer provider as soon as there is
one. Where a program has another provider, it adds the processor itself::

    provider.add_span_processor(ConprofSpanProcessor())

OpenTelemetry is not imported: its interface is a few methods.
"""

from __future__ import annotations

from typing import Any

from conprof_core import _log, _traces

__all__ = ["ConprofSpanProcessor"]


class ConprofSpanProcessor:
    """A ``SpanProcessor`` of OpenTelemetry's SDK. Does nothing unless ``trace_ids`` is on.

    Only spans that are recorded reach it: a request that the sampler left out has no ids. Methods
    run in the thread and the context of the span and never raise. Where a window goes to Pyroscope,
    root spans get the attribute ``pyroscope.profile.id``.
    """

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        """Note a span that has no parent in this process."""
        del parent_context
        parent = span.parent
        if parent is None or parent.is_remote:
            with _log.guard("traces"):
                context = span.get_span_context()
                is_request = span.kind.name in ("SERVER", "CONSUMER")
                is_taken = _traces.began(context.trace_id, context.span_id, is_request=is_request)
                if is_taken and _traces.marks_spans:
                    # What Pyroscope's own integrations set: Grafana shows the link by it.
                    span.set_attribute("pyroscope.profile.id", f"{context.span_id:016x}")

    def on_end(self, span: Any) -> None:
        """Note its end."""
        if span.parent is None or span.parent.is_remote:
            with _log.guard("traces"):
                _traces.ended(span.get_span_context().span_id)

    def _on_ending(self, span: Any) -> None:
        """Part of the interface since 1.30."""

    def shutdown(self) -> None:
        """Hold nothing."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Have nothing to send."""
        del timeout_millis
        return True
