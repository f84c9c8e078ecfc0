"""Traces: one from the HTTP request through every topic and database to the status that comes back.

Without an exporter nothing is recorded, at almost no cost, but every request and record still has a trace id for
events, error responses and log lines, and the trace of a caller is passed on unchanged. Work for several traces (a bulk
write, a work unit of many objects) is a child of the first and linked to the others.

Spans are created here rather than by instrumentation packages: those of pymongo and botocore use superseded attribute
names, do not cover motor's bulk writes or the signed PUT, and cannot link shared work; FastStream's telemetry
middleware gives a micro-batch one span instead of one per record. Names follow OpenTelemetry's semantic conventions
and the CloudEvents ones, which ``tests/integration/test_tracing.py`` verifies.
"""

import asyncio
import random
import re
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any
from uuid import uuid4

import structlog
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
from bucketline.events.cloudevents import CloudEvent, ReceivedEvent
from bucketline.settings import ObservabilitySettings

Carrier = Mapping[str, str]
"""W3C headers of a span: ``traceparent`` and optionally ``tracestate``."""
Attribute = str | int | float | bool
Scope = MutableMapping[str, Any]
"""An ASGI connection scope."""

MAX_LINKS = 100
EXPORT_TIMEOUT_SECONDS = 5
SHUTDOWN_TIMEOUT_SECONDS = 3.0
"""How long a process that ends waits for the export of its last spans. Its records and requests matter more."""
MAX_QUEUE_SIZE = 16_384
"""Spans that wait for export. More are dropped: lower ``OTEL_TRACES_SAMPLER_ARG`` instead."""

HTTP_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"})
OTHER_METHOD = "_OTHER"

_HOST = re.compile(r"(?:[a-z0-9+]+://(?:[^@/]*@)?)?(\[[^]]+\]|[^:/,?\[]+)")
"""The host of a URL or of a Host header; the first host of a replica set."""
_PROPAGATOR = TraceContextTextMapPropagator()
_NO_SPAN: AbstractContextManager[None] = nullcontext()
_tracer: Tracer | None = None
_servers: Mapping[str, str] = {}


def setup_tracing(
    settings: ObservabilitySettings, service: str, servers: Mapping[str, str]
) -> Callable[[], Awaitable[None]]:
    """Export spans if an endpoint is configured. Call the returned function at the end to export the last spans.

    ``servers`` has the URLs of ``mongodb`` and ``s3``, whose hosts become the ``server.address`` of client spans.
    Attributes of the pod come from ``OTEL_RESOURCE_ATTRIBUTES``, which the SDK reads.
    That takes at most ``SHUTDOWN_TIMEOUT_SECONDS``; spans that the collector has not accepted by then are lost.
    """
    global _servers
    if settings.otlp_endpoint is None:
        return _do_nothing
    _servers = {system: host[1] for system, url in servers.items() if (host := _HOST.match(url))}
    # The SDK and its exporter cost memory and start-up time, so they are imported only if they are used.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider as SdkProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    resource = Resource.create(
        {
            "service.name": service,
            "service.namespace": "bucketline",
            "service.version": __version__,
            "service.instance.id": str(uuid4()),
        }
    )
    sampler = ParentBased(TraceIdRatioBased(settings.sample_ratio))
    provider = SdkProvider(resource=resource, sampler=sampler, shutdown_on_exit=False)
    endpoint = settings.otlp_endpoint.rstrip("/") + "/v1/traces"
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=MAX_QUEUE_SIZE, max_export_batch_size=1024))
    # Extractors may use OpenTelemetry's API themselves; their spans join these traces.
    trace.set_tracer_provider(provider)
    use_tracer_provider(provider)
    return lambda: _run_in_thread(provider.shutdown, SHUTDOWN_TIMEOUT_SECONDS)


async def _do_nothing() -> None:
    return None


async def _run_in_thread(work: Callable[[], object], timeout_seconds: float) -> None:
    """Run blocking work and return when it is done or after the timeout.

    Not in one of the event loop's threads: a process waits for those when it ends.
    """
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        try:
            work()
        finally:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, daemon=True).start()
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_seconds):
            await done.wait()


def use_tracer_provider(provider: TracerProvider | None) -> None:
    """Record spans with this provider from now on, or none if it is None."""
    global _tracer
    _tracer = provider.get_tracer("bucketline", __version__) if provider is not None else None


def recording_tracer() -> Tracer | None:
    """Return the tracer if the current trace is recorded, otherwise None."""
    if _tracer is None or not trace.get_current_span().get_span_context().trace_flags.sampled:
        return None
    return _tracer


def current_trace() -> dict[str, str]:
    """Return the W3C headers of the current span, which are stored with an event so that consumers join the trace."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier


def current_trace_id() -> str | None:
    """Return the current trace id in hex, or None outside of any trace."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


def is_sampled(carrier: Carrier | None) -> bool:
    """Return whether the trace that these headers belong to is recorded."""
    flags = (carrier or {}).get("traceparent", "").rpartition("-")[2]
    return len(flags) == 2 and flags[1] in "13579bdf"


def is_same_trace(first: Carrier, second: Carrier) -> bool:
    """Return whether two spans belong to one trace."""
    trace_id = first.get("traceparent", "").split("-")[1:2]
    return trace_id != [] and trace_id == second.get("traceparent", "").split("-")[1:2]


@contextmanager
def start_span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    parent: Carrier | None = None,
    links: Iterable[Carrier] = (),
    attributes: Mapping[str, Attribute] | None = None,
) -> Iterator[Span]:
    """Make a new span the current one inside the block: a child of ``parent`` or of the current span, or a new trace.

    At most ``MAX_LINKS`` links are kept. An error is recorded with its type only, since its message may be private.
    """
    if _tracer is None:
        span = _create_unrecorded_span(parent)
    else:
        context = _to_context(parent) if parent else None
        span = _tracer.start_span(name, context=context, kind=kind, links=_build_links(links), attributes=attributes)
    with _use_span(span, end_on_exit=True):
        try:
            yield span
        except BaseException as error:
            _record_error(span, error)
            raise


@contextmanager
def start_shared_span(
    name: str, traces: Iterable[Carrier | None], *, attributes: Mapping[str, Attribute] | None = None
) -> Iterator[Carrier | None]:
    """Start a span for work that is done once for several traces: a child of the first, linked to the others.

    Yields the headers of the span; None, without a span, if none of the traces is recorded.
    """
    recorded = {} if _tracer is None else {one["traceparent"]: one for one in traces if one and is_sampled(one)}
    if not recorded:
        yield None
        return
    first, *rest = recorded.values()
    with start_span(name, parent=first, links=rest, attributes=attributes):
        yield current_trace()


def start_mongodb_span(
    database: str, collection: str, operation: str, batch_size: int | None = None
) -> AbstractContextManager[None]:
    """Start a span for one round trip to MongoDB. ``operation`` is the name of the command."""
    if recording_tracer() is None:
        return _NO_SPAN
    attributes: dict[str, Attribute] = {
        "db.system.name": "mongodb",
        "db.namespace": database,
        "db.collection.name": collection,
        "db.operation.name": operation,
    }
    # According to the conventions a single operation is not a batch.
    if batch_size is not None and batch_size > 1:
        attributes["db.operation.batch.size"] = batch_size
    return _start_client_span("mongodb", f"{operation} {collection}", attributes)


def start_s3_span(operation: str, bucket: str, key: str) -> AbstractContextManager[None]:
    """Start a span for one request to S3. ``operation`` is the name in the API, such as ``PutObject``."""
    if recording_tracer() is None:
        return _NO_SPAN
    attributes: dict[str, Attribute] = {
        "rpc.system.name": "aws-api",
        "rpc.method": f"S3/{operation}",
        "aws.s3.bucket": bucket,
    }
    if key:
        attributes["aws.s3.key"] = key
    return _start_client_span("s3", f"S3.{operation}", attributes)


def start_server_span(scope: Scope, parent: Carrier) -> AbstractContextManager[Span]:
    """Start a span for an HTTP request. Call :func:`record_response` before it ends."""
    attributes = {
        "http.request.method": http_method(scope),
        "url.scheme": str(scope.get("scheme", "http")),
        "url.path": str(scope["path"]),
    }
    if _tracer is not None and (host := _HOST.match(dict(scope["headers"]).get(b"host", b"").decode("latin-1"))):
        attributes["server.address"] = host[1]
    return start_span(_server_span_name(scope), kind=SpanKind.SERVER, parent=parent, attributes=attributes)


def record_response(span: Span, scope: Scope, route: str | None, status: int) -> None:
    """Record the matched route, if any, and the status. A 4xx is not an error of the server."""
    if not span.is_recording():
        return
    span.set_attributes(
        {"http.response.status_code": status, "network.protocol.version": str(scope.get("http_version", "1.1"))}
    )
    if http_method(scope) == OTHER_METHOD:
        span.set_attribute("http.request.method_original", str(scope["method"]))
    if route is not None:
        span.update_name(f"{_server_span_name(scope)} {route}")
        span.set_attribute("http.route", route)
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))
        span.set_attribute("error.type", str(status))


def http_method(scope: Scope) -> str:
    """Return the method of a request, or ``_OTHER`` if it is not a standard one."""
    method = str(scope["method"])
    return method if method in HTTP_METHODS else OTHER_METHOD


def _server_span_name(scope: Scope) -> str:
    method = http_method(scope)
    return "HTTP" if method == OTHER_METHOD else method


@contextmanager
def start_consumer_spans(topic: str, group: str, records: Sequence[ReceivedEvent]) -> Iterator[Sequence[ReceivedEvent]]:
    """Start a span for each record of a micro-batch, and yield the records with their span as ``trace``.

    A handler that publishes because of a record passes the record's ``trace`` on, and so joins its trace. Calls for a
    whole micro-batch belong to a shared span. Log lines about a single record carry its subject.
    """
    with ExitStack() as stack:
        if len(records) == 1:
            event = records[0].event
            stack.enter_context(structlog.contextvars.bound_contextvars(**{event.subject_field: event.subject}))
        if _tracer is None:
            if len(records) == 1:
                stack.enter_context(start_span("", parent=records[0].trace))
            yield records
            return
        spans = [_start_consumer_span(_tracer, topic, group, record) for record in records]
        traced = [replace(record, trace=_to_carrier(span)) for record, span in zip(records, spans, strict=True)]
        if len(records) == 1:
            current = _use_span(spans[0])
        else:
            attributes: dict[str, Attribute] = {
                "messaging.destination.name": topic,
                "messaging.batch.message_count": len(records),
            }
            current = start_shared_span(f"handle {topic}", [record.trace for record in traced], attributes=attributes)
        with _end_spans(spans), current:
            yield traced


@contextmanager
def start_producer_spans(topics: Sequence[str], envelopes: Sequence[CloudEvent]) -> Iterator[Sequence[Carrier]]:
    """Start a span for each event in its own trace, and yield the trace headers of the records."""
    if _tracer is None:
        yield [envelope.trace for envelope in envelopes]
        return
    spans = [
        _start_producer_span(_tracer, topic, envelope) if is_sampled(envelope.trace) else None
        for topic, envelope in zip(topics, envelopes, strict=True)
    ]
    with _end_spans([span for span in spans if span is not None]):
        yield [
            envelope.trace if span is None else _to_carrier(span)
            for span, envelope in zip(spans, envelopes, strict=True)
        ]


def _start_consumer_span(tracer: Tracer, topic: str, group: str, record: ReceivedEvent) -> Span:
    attributes: dict[str, Attribute] = {}
    if is_sampled(record.trace) or not record.trace:
        attributes = {
            **_describe_event(record.id, record.source, record.event.type, record.event.subject, topic, "process"),
            "messaging.destination.partition.id": str(record.partition),
            "messaging.kafka.offset": record.offset,
            "messaging.consumer.group.name": group,
        }
    context = _to_context(record.trace)
    return tracer.start_span(f"process {topic}", context=context, kind=SpanKind.CONSUMER, attributes=attributes)


def _start_producer_span(tracer: Tracer, topic: str, envelope: CloudEvent) -> Span:
    attributes: dict[str, Attribute] = {
        **_describe_event(envelope.id, envelope.source, envelope.type, envelope.subject, topic, "send"),
        "messaging.kafka.message.key": envelope.key,
        "messaging.message.body.size": len(envelope.data),
    }
    context = _to_context(envelope.trace)
    return tracer.start_span(f"send {topic}", context=context, kind=SpanKind.PRODUCER, attributes=attributes)


def _describe_event(id: str, source: str, type: str, subject: str, topic: str, operation: str) -> dict[str, Attribute]:  # noqa: A002
    return {
        "messaging.system": "kafka",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": topic,
        "cloudevents.event_id": id,
        "cloudevents.event_source": source,
        "cloudevents.event_type": type,
        "cloudevents.event_subject": subject,
    }


@contextmanager
def _start_client_span(server: str, name: str, attributes: dict[str, Attribute]) -> Iterator[None]:
    if server in _servers:
        attributes["server.address"] = _servers[server]
    # Not the current span: a call has no children here, and a generator may be resumed in another context.
    tracer = recording_tracer()
    span = (tracer or trace.NoOpTracer()).start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
    with _end_spans([span]):
        yield


@contextmanager
def _end_spans(spans: Sequence[Span]) -> Iterator[None]:
    """End the spans after the block, with its error if there is one."""
    try:
        yield
    except BaseException as error:
        for span in spans:
            _record_error(span, error)
        raise
    finally:
        for span in spans:
            span.end()


def _use_span(span: Span, *, end_on_exit: bool = False) -> AbstractContextManager[Any]:
    """Make a span the current one inside a block, without recording the message of an error."""
    return trace.use_span(span, end_on_exit=end_on_exit, record_exception=False, set_status_on_exception=False)


def _record_error(span: Span, error: BaseException) -> None:
    span.set_status(Status(StatusCode.ERROR))
    span.set_attribute("error.type", type(error).__qualname__)


def _to_carrier(span: Span) -> dict[str, str]:
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span, Context()))
    return carrier


def _to_context(carrier: Carrier) -> Context:
    return _PROPAGATOR.extract(carrier, Context())


def _build_links(carriers: Iterable[Carrier]) -> list[Link]:
    contexts = (trace.get_current_span(_to_context(carrier)).get_span_context() for carrier in carriers)
    return [Link(context) for context in contexts if context.is_valid][:MAX_LINKS]


def _create_unrecorded_span(parent: Carrier | None) -> Span:
    """Return a span that is not recorded: the parent, or one with new ids where a trace begins."""
    span = trace.get_current_span(_to_context(parent)) if parent else trace.get_current_span()
    if span.get_span_context().is_valid:
        return span
    # The ids are not secrets, they only must not collide.
    ids = random.getrandbits(128) or 1, random.getrandbits(64) or 1
    return NonRecordingSpan(SpanContext(*ids, is_remote=False, trace_flags=TraceFlags(TraceFlags.DEFAULT)))
