"""Spans of records: one for each that is published, one for each that is handled, child of what caused it.

Names and attributes follow OpenTelemetry's messaging conventions (in development there) and those of CloudEvents.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import structlog
from opentelemetry.trace import Span, SpanKind, Tracer

from bucketline.events.cloudevents import CloudEvent, ReceivedEvent
from bucketline.observability.tracing import (
    Attribute,
    Carrier,
    carrier_of,
    context_of,
    exporting,
    failed,
    is_sampled,
    shared,
    start_span,
    use_span,
)


@contextmanager
def processing(topic: str, group: str, records: Sequence[ReceivedEvent]) -> Iterator[Sequence[ReceivedEvent]]:
    """Opens a consumer span for each record; the records that come out carry it as their trace.

    A handler that publishes because of a record passes that record's ``trace`` on, and so joins the trace it is part
    of, however many others shared the micro-batch. What a handler of several records asks of the stores is done once
    for all of them, and is linked to each. Log lines about a single record carry its subject.
    """
    tracer = exporting()
    if tracer is None:
        with _alone(records) if len(records) == 1 else nullcontext():
            yield records
        return
    opened = [_consumer(tracer, topic, group, record) for record in records]
    traced = [replace(record, trace=carrier_of(one)) for record, one in zip(records, opened, strict=True)]
    try:
        if len(records) == 1:
            with use_span(opened[0]), _named(records[0]):
                yield traced
        else:
            together: dict[str, Attribute] = {
                "messaging.destination.name": topic,
                "messaging.batch.message_count": len(records),
            }
            with shared(f"handle {topic}", [record.trace for record in traced], attributes=together):
                yield traced
    except BaseException as error:
        for one in opened:
            failed(one, error)
        raise
    finally:
        for one in opened:
            one.end()


@contextmanager
def sending(topics: Sequence[str], envelopes: Sequence[CloudEvent]) -> Iterator[Sequence[Carrier]]:
    """Opens a producer span for each envelope, in the trace that it belongs to; yields what goes into the headers."""
    tracer = exporting()
    if tracer is None:
        yield [envelope.trace for envelope in envelopes]
        return
    opened = [
        _producer(tracer, topic, envelope) if is_sampled(envelope.trace) else None
        for topic, envelope in zip(topics, envelopes, strict=True)
    ]
    try:
        yield [
            envelope.trace if one is None else carrier_of(one) for one, envelope in zip(opened, envelopes, strict=True)
        ]
    except BaseException as error:
        for one in filter(None, opened):
            failed(one, error)
        raise
    finally:
        for one in filter(None, opened):
            one.end()


@contextmanager
def _alone(records: Sequence[ReceivedEvent]) -> Iterator[None]:
    (record,) = records
    with start_span("", parent=record.trace), _named(record):
        yield


@contextmanager
def _named(record: ReceivedEvent) -> Iterator[None]:
    event = record.event
    with structlog.contextvars.bound_contextvars(**{event.subject_field: event.subject}):
        yield


def _consumer(tracer: Tracer, topic: str, group: str, record: ReceivedEvent) -> Span:
    parent = context_of(record.trace)
    if record.trace and not is_sampled(record.trace):
        return tracer.start_span(f"process {topic}", context=parent, kind=SpanKind.CONSUMER)
    return tracer.start_span(
        f"process {topic}",
        context=parent,
        kind=SpanKind.CONSUMER,
        attributes={
            "messaging.system": "kafka",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": topic,
            "messaging.destination.partition.id": str(record.partition),
            "messaging.kafka.offset": record.offset,
            "messaging.consumer.group.name": group,
            "cloudevents.event_id": record.id,
            "cloudevents.event_source": record.source,
            "cloudevents.event_type": record.event.type,
            "cloudevents.event_subject": record.event.subject,
        },
    )


def _producer(tracer: Tracer, topic: str, envelope: CloudEvent) -> Span:
    return tracer.start_span(
        f"send {topic}",
        context=context_of(envelope.trace),
        kind=SpanKind.PRODUCER,
        attributes={
            "messaging.system": "kafka",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": topic,
            "messaging.kafka.message.key": envelope.key,
            "messaging.message.body.size": len(envelope.data),
            "cloudevents.event_id": envelope.id,
            "cloudevents.event_source": envelope.source,
            "cloudevents.event_type": envelope.type,
            "cloudevents.event_subject": envelope.subject,
        },
    )
