"""Spans of records: one a record, child of what caused it, around the handling of its micro-batch."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from bucketline.events.envelope import Received
from bucketline.telemetry.tracing import tracer

_PROPAGATOR = TraceContextTextMapPropagator()


@contextmanager
def processing(topic: str, group: str, records: Sequence[Received]) -> Iterator[list[Received]]:
    """Opens a consumer span for each record; the records that come out carry it as their trace.

    A handler that publishes because of a record passes that record's ``trace`` on, and so joins the trace it is part
    of, however many others shared the micro-batch.
    """
    opened = []
    traced = []
    with ExitStack() as stack:
        for record in records:
            parent = _PROPAGATOR.extract(dict(record.trace))
            span = tracer().start_span(
                f"process {topic}",
                context=parent,
                kind=SpanKind.CONSUMER,
                attributes={
                    "messaging.system": "kafka",
                    "messaging.operation.name": "process",
                    "messaging.operation.type": "process",
                    "messaging.destination.name": topic,
                    "messaging.consumer.group.name": group,
                    "messaging.message.id": record.id,
                    "messaging.batch.message_count": len(records),
                    "bucketline.subject": record.event.subject,
                },
            )
            stack.callback(span.end)
            opened.append(span)
            carrier: dict[str, str] = {}
            _PROPAGATOR.inject(carrier, trace.set_span_in_context(span))
            traced.append(replace(record, trace=carrier))
        try:
            yield traced
        except BaseException as error:
            for span in opened:
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
                span.set_attribute("error.type", type(error).__name__)
            raise
