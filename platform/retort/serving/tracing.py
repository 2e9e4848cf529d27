"""OpenTelemetry spans: one per request, one per stage below it. Without an SDK all of this does nothing, and costs next to nothing.

The caller's trace goes on where a `traceparent` header comes with the request. Spans carry names and numbers, never texts.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode

__all__ = ["Span", "request_span", "set_up", "stages"]

log = logging.getLogger(__name__)

Span = trace.Span
_ORDER = ("queue", "encode", "search", "fuse", "rerank", "fetch")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def set_up() -> bool:
    """Send spans to where OTEL_EXPORTER_OTLP_ENDPOINT says, if it does and the SDK is installed; returns whether."""
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return False
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        log.warning(
            "%s is set, and %s is not installed: pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http",
            _ENDPOINTS[0],
            error.name,
        )
        return False
    name = os.environ.get("OTEL_SERVICE_NAME", "retort")
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return True


@contextmanager
def request_span(name: str, headers: Mapping[str, str]) -> Iterator[Span]:
    """A server span, the current one while the context is open; a failure of ours marks it."""
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):  # nobody listens
        yield trace.INVALID_SPAN
        return
    context = propagate.extract(headers)
    with trace.get_tracer("retort").start_as_current_span(name, context, SpanKind.SERVER) as span:
        yield span


def stages(stages_ms: Mapping[str, float], attributes: Mapping[str, str | int | bool]) -> None:
    """Below the current span, the stages of an answer that is ready now: one after the other up to this moment."""
    span = trace.get_current_span()
    if not span.is_recording():
        return
    span.set_attributes(attributes)
    tracer = trace.get_tracer("retort")
    ran = [(name, stages_ms[name]) for name in _ORDER if stages_ms.get(name)]
    at = time.time_ns() - int(sum(milliseconds for _, milliseconds in ran) * 1e6)
    for name, milliseconds in ran:
        child = tracer.start_span(f"retort.{name}", start_time=at)
        at += int(milliseconds * 1e6)
        child.end(end_time=at)


def failed(span: Span, status: int) -> None:
    """Mark a request's span as failed by our fault."""
    span.set_status(Status(StatusCode.ERROR, f"HTTP {status}"))
