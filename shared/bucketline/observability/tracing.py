"""Traces: one from the HTTP request through every topic and store to the status that comes back.

Without an exporter nothing is recorded and next to nothing is paid, yet every request and record has a trace id, which
is what events, error answers and log lines carry; a caller's own trace is handed on as it came. Work that serves
several traces at once (a bulk write, a unit of many objects) belongs to the first of them and is linked to the others.
"""

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TracerProvider,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from bucketline import __version__
from bucketline.settings import ObservabilitySettings

Carrier = Mapping[str, str]
"""W3C headers of a span: ``traceparent`` and, if there is one, ``tracestate``."""
Attribute = str | int | float | bool

MAX_LINKS = 100
EXPORT_SECONDS = 5
LAST_SECONDS = 3.0
"""How long a process that ends waits for its last spans to be sent. Its records and requests matter more."""

MAX_QUEUE = 16_384
"""Spans waiting for export. Above it spans are dropped: lower ``OTEL_TRACES_SAMPLER_ARG`` instead."""

_PROPAGATOR = TraceContextTextMapPropagator()
_NOT_SAMPLED = TraceFlags(TraceFlags.DEFAULT)
_tracer: Tracer | None = None


def setup_tracing(settings: ObservabilitySettings, service: str) -> Callable[[], Awaitable[None]]:
    """Exports spans when an endpoint is configured; call what it returns at the end, so that the last ones are sent.

    That takes at most ``LAST_SECONDS``: spans that a collector does not take by then are lost.
    """
    if settings.otlp_endpoint is None:
        return _nothing
    # The SDK and its exporter are loaded only where they are used: they cost memory and start-up time.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider as SdkProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    resource = Resource.create(
        {"service.name": service, "service.namespace": "bucketline", "service.version": __version__}
    )
    sampler = ParentBased(TraceIdRatioBased(settings.sample_ratio))
    provider = SdkProvider(resource=resource, sampler=sampler, shutdown_on_exit=False)
    endpoint = settings.otlp_endpoint.rstrip("/") + "/v1/traces"
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=MAX_QUEUE, max_export_batch_size=1024))
    # Extractors may use OpenTelemetry's API on their own; their spans join ours.
    trace.set_tracer_provider(provider)
    record_with(provider)
    return lambda: _within(LAST_SECONDS, provider.shutdown)


async def _nothing() -> None:
    return None


async def _within(seconds: float, work: Callable[[], object]) -> None:
    """Does blocking work beside the event loop, and returns when it is done or the time is over.

    The thread is not one of the loop's own: for those the process waits at its end, however long they take.
    """
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        try:
            work()
        finally:
            with suppress(RuntimeError):  # the loop is closed, nobody waits any more
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, daemon=True).start()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await done.wait()


def record_with(provider: TracerProvider | None) -> None:
    """Records spans with this provider from now on; None: records nothing."""
    global _tracer
    _tracer = provider.get_tracer("bucketline", __version__) if provider is not None else None


def recording_tracer() -> Tracer | None:
    """The tracer, where the current trace is being recorded; None where a span would be thrown away."""
    if _tracer is None or not trace.get_current_span().get_span_context().trace_flags.sampled:
        return None
    return _tracer


def exporting() -> Tracer | None:
    """The tracer, if this process exports spans at all."""
    return _tracer


def current_trace() -> dict[str, str]:
    """W3C headers of the current span: what is stored with an event so that its consumers join the trace."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier


def carrier_of(opened: Span) -> dict[str, str]:
    """W3C headers of a span that need not be the current one."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(opened, Context()))
    return carrier


def context_of(carrier: Carrier) -> Context:
    """The context whose current span is the one that ``carrier`` names; an empty one if it names none."""
    return _PROPAGATOR.extract(carrier, Context())


def is_sampled(carrier: Carrier | None) -> bool:
    """Whether somebody records the trace that these headers belong to."""
    flags = (carrier or {}).get("traceparent", "").rpartition("-")[2]
    return len(flags) == 2 and flags[1] in "13579bdf"


def same_trace(one: Carrier, other: Carrier) -> bool:
    """Whether two spans are of one trace."""
    first, second = one.get("traceparent", "").split("-"), other.get("traceparent", "").split("-")
    return len(first) > 1 and first[1:2] == second[1:2]


def current_trace_id() -> str | None:
    """The current trace id in hex, or None outside of any trace."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


@contextmanager
def start_span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    parent: Carrier | None = None,
    links: Iterable[Carrier] = (),
    attributes: Mapping[str, Attribute] | None = None,
) -> Iterator[Span]:
    """A span around a block, current inside it. Without ``parent`` it is a child of the current one, or a new trace.

    At most ``MAX_LINKS`` links are kept. An error that leaves the block is noted by its type; its message may name
    things that are nobody's business.
    """
    if _tracer is None:
        stand_in = _stand_in(parent)
        token = contexts.attach(trace.set_span_in_context(stand_in))
        try:
            yield stand_in
        finally:
            contexts.detach(token)
        return
    opened = _tracer.start_span(
        name,
        context=context_of(parent) if parent else None,
        kind=kind,
        links=links_to(links),
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    )
    with use_span(opened):
        try:
            yield opened
        except BaseException as error:
            failed(opened, error)
            raise
        finally:
            opened.end()


@contextmanager
def shared(
    name: str, traces: Iterable[Carrier | None], *, attributes: Mapping[str, Attribute] | None = None
) -> Iterator[Carrier | None]:
    """Around work that is done once for several traces: a child of the first, linked to the others.

    Yields the headers of its span; None, and there is no span, where none of the traces is recorded.
    """
    if _tracer is None:
        yield None
        return
    recorded = {carrier["traceparent"]: carrier for carrier in traces if carrier and is_sampled(carrier)}
    if not recorded:
        yield None
        return
    first, *rest = recorded.values()
    with start_span(name, parent=first, links=rest, attributes=attributes):
        yield current_trace()


@contextmanager
def use_span(opened: Span) -> Iterator[None]:
    """Makes a span the current one inside the block, without ending it."""
    token = contexts.attach(trace.set_span_in_context(opened))
    try:
        yield
    finally:
        contexts.detach(token)


def failed(opened: Span, error: BaseException) -> None:
    """Notes an error on a span, by its type."""
    opened.set_status(Status(StatusCode.ERROR))
    opened.set_attribute("error.type", type(error).__qualname__)


def links_to(carriers: Iterable[Carrier]) -> list[Link]:
    """Links to the spans that these headers name, as many as are kept."""
    found = []
    for carrier in carriers:
        context = trace.get_current_span(context_of(carrier)).get_span_context()
        if context.is_valid:
            found.append(Link(context))
        if len(found) == MAX_LINKS:
            break
    return found


def _stand_in(parent: Carrier | None) -> Span:
    """What is current where nothing is recorded: it only has ids, its parent's, or new ones where a trace begins."""
    found = trace.get_current_span(context_of(parent)) if parent else trace.get_current_span()
    if found.get_span_context().is_valid:
        return found
    # Not secrets: ids that must merely not collide.
    ids = random.getrandbits(128) or 1, random.getrandbits(64) or 1
    return NonRecordingSpan(SpanContext(*ids, is_remote=False, trace_flags=_NOT_SAMPLED))
