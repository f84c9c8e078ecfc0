"""Traces: one from the HTTP request through every topic to the status that comes back.

Without an exporter nothing is recorded, yet every request and record still has a trace id, which is what events, error
answers and log lines carry. Messaging attributes follow OpenTelemetry's current conventions (in development there).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, Span, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from bucketline import __version__
from bucketline.settings import TelemetrySettings

_PROPAGATOR = TraceContextTextMapPropagator()


def setup_tracing(settings: TelemetrySettings, service: str) -> TracerProvider:
    """Installs the process's tracer provider; call its ``shutdown`` at the end, so that the last spans are sent."""
    exporting = settings.otlp_endpoint is not None
    sampler = ParentBased(TraceIdRatioBased(settings.sample_ratio)) if exporting else ALWAYS_OFF
    resource = Resource.create(
        {"service.name": service, "service.namespace": "bucketline", "service.version": __version__}
    )
    provider = TracerProvider(resource=resource, sampler=sampler)
    if settings.otlp_endpoint is not None:
        endpoint = settings.otlp_endpoint.rstrip("/") + "/v1/traces"
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    trace.set_tracer_provider(provider)
    return provider


@cache
def tracer() -> Tracer:
    """One for the process; made before a provider is installed, it passes on to that one later."""
    return trace.get_tracer("bucketline", __version__)


def current_trace() -> dict[str, str]:
    """W3C headers of the current span: what is stored with an event so that its consumers join the trace."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier


def current_trace_id() -> str | None:
    """The current trace id in hex, or None outside of any span."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


@contextmanager
def span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    parent: Mapping[str, str] | None = None,
    links: tuple[Mapping[str, str], ...] = (),
    attributes: Mapping[str, str | int | float | bool] | None = None,
) -> Iterator[Span]:
    """A span around a block. ``parent`` and ``links`` are W3C headers as :func:`current_trace` gives them."""
    context = _PROPAGATOR.extract(dict(parent)) if parent else None
    with tracer().start_as_current_span(
        name,
        context=context,
        kind=kind,
        links=[_link(link) for link in links if link],
        attributes=dict(attributes or {}),
    ) as opened:
        yield opened


def _link(carrier: Mapping[str, str]) -> Link:
    return Link(trace.get_current_span(_PROPAGATOR.extract(dict(carrier))).get_span_context())
