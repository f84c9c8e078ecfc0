"""Spans where somebody records them; ids, and nothing else, where nobody does."""

import asyncio
import socket
import time
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode, format_trace_id
from tests.unit.bucketline.kafka.fakes import AT, deleted

from bucketline.db.bulk_writer import BulkWriter
from bucketline.events.cloudevents import ReceivedEvent, wrap
from bucketline.observability import tracing
from bucketline.observability.client_spans import mongodb_call, s3_call
from bucketline.observability.messaging_spans import processing, sending
from bucketline.observability.tracing import (
    MAX_LINKS,
    current_trace,
    current_trace_id,
    is_sampled,
    record_with,
    same_trace,
    setup_tracing,
    shared,
    start_span,
)
from bucketline.settings import ObservabilitySettings


def headers(number: int, flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{number:032x}-{number:016x}-{flags}"}


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """Everything is recorded while a test has these."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(1.0)))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    record_with(provider)
    yield exporter
    record_with(None)


def named(exporter: InMemorySpanExporter, name: str) -> ReadableSpan:
    (found,) = [start_span for start_span in exporter.get_finished_spans() if start_span.name == name]
    return found


def trace_of(found: ReadableSpan) -> str:
    assert found.context is not None
    return format_trace_id(found.context.trace_id)


def links_of(found: ReadableSpan) -> set[str]:
    return {format_trace_id(link.context.trace_id) for link in found.links}


def test_where_nothing_is_recorded_there_is_still_a_trace_id() -> None:
    assert current_trace_id() is None
    with start_span("request") as opened:
        first = current_trace_id()
        assert first is not None
        assert not opened.is_recording()
        with start_span("inside"):
            assert current_trace_id() == first
    with start_span("request"):
        assert current_trace_id() != first


def test_a_callers_trace_is_handed_on_untouched_where_nothing_is_recorded() -> None:
    given = {**headers(7), "tracestate": "vendor=1"}
    with start_span("request", parent=given):
        assert current_trace() == given
    with start_span("request", parent={"traceparent": "nonsense"}):
        assert current_trace_id() is not None


def test_stores_are_called_without_a_span_outside_of_a_recorded_trace(spans: InMemorySpanExporter) -> None:
    with mongodb_call("db", "objects", "find"), s3_call("PutObject", "b", "k"):
        pass
    with start_span("unsampled", parent=headers(1, "00")), mongodb_call("db", "objects", "find"):
        pass
    assert spans.get_finished_spans() == ()


def test_a_store_call_is_a_client_span_with_the_names_of_the_conventions(spans: InMemorySpanExporter) -> None:
    with start_span("request"):
        with mongodb_call("db", "objects", "find"):
            pass
        for size in (1, 7):
            with mongodb_call("db", f"objects {size}", "bulkWrite", size):
                pass
        with pytest.raises(OSError, match="no"), s3_call("PutObject", "bucket", "key"):
            raise OSError("no")
    found, stored = named(spans, "find objects"), named(spans, "S3.PutObject")
    assert found.kind is stored.kind is SpanKind.CLIENT
    assert found.attributes == {
        "db.system.name": "mongodb",
        "db.namespace": "db",
        "db.collection.name": "objects",
        "db.operation.name": "find",
    }
    batches = [named(spans, f"bulkWrite objects {size}").attributes or {} for size in (1, 7)]
    assert [batch.get("db.operation.batch.size") for batch in batches] == [None, 7], "one is no batch"
    assert stored.attributes == {
        "rpc.system.name": "aws-api",
        "rpc.method": "S3/PutObject",
        "aws.s3.bucket": "bucket",
        "aws.s3.key": "key",
        "error.type": "OSError",
    }
    assert stored.status.status_code is StatusCode.ERROR
    assert stored.events == ()


def test_shared_work_hangs_on_the_first_recorded_trace_and_is_linked_to_the_others(
    spans: InMemorySpanExporter,
) -> None:
    with shared("write", [None, {}, headers(9, "00"), headers(1), headers(2), headers(2), headers(3)]) as own:
        assert own is not None
        assert is_sampled(own)
    write = named(spans, "write")
    assert trace_of(write) == f"{1:032x}"
    assert links_of(write) == {f"{2:032x}", f"{3:032x}"}


def test_links_have_a_limit(spans: InMemorySpanExporter) -> None:
    with shared("write", [headers(n + 1) for n in range(1000)]):
        pass
    assert len(named(spans, "write").links) == MAX_LINKS


def test_work_for_traces_that_nobody_records_has_no_span(spans: InMemorySpanExporter) -> None:
    with shared("write", [headers(1, "00"), None]) as own:
        assert own is None
    assert spans.get_finished_spans() == ()


def received(number: int, flags: str = "01") -> ReceivedEvent:
    return ReceivedEvent(deleted(f"obj_{number}"), f"evt_{number}", "/test", headers(number, flags), 2, 40 + number)


def test_each_record_of_a_micro_batch_stays_in_its_own_trace(spans: InMemorySpanExporter) -> None:
    with processing("t", "g", [received(1), received(2)]) as traced, mongodb_call("db", "objects", "bulkWrite"):
        pass
    one, two = [s for s in spans.get_finished_spans() if s.name == "process t"]
    assert [trace_of(one), trace_of(two)] == [f"{1:032x}", f"{2:032x}"]
    assert all(same_trace(record.trace, headers(n)) for n, record in ((1, traced[0]), (2, traced[1])))
    assert one.attributes is not None
    assert one.attributes["messaging.kafka.offset"] == 41
    assert one.attributes["messaging.destination.partition.id"] == "2"
    assert "messaging.batch.message_count" not in one.attributes, "it is a span of one message"
    handled, bulk = named(spans, "handle t"), named(spans, "bulkWrite objects")
    assert links_of(handled) == {f"{2:032x}"}
    assert handled.context is not None
    assert bulk.parent is not None
    assert bulk.parent.span_id == handled.context.span_id


def test_a_record_alone_is_the_parent_of_what_its_handler_asks_for(spans: InMemorySpanExporter) -> None:
    def handle() -> None:
        with processing("t", "g", [received(1)]):
            with mongodb_call("db", "objects", "find"):
                pass
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        handle()
    processed, find = named(spans, "process t"), named(spans, "find objects")
    assert processed.context is not None
    assert find.parent is not None
    assert find.parent.span_id == processed.context.span_id
    assert processed.status.status_code is StatusCode.ERROR


def test_a_published_event_carries_the_span_of_its_publishing(spans: InMemorySpanExporter) -> None:
    sealed = [
        wrap(deleted(f"obj_{n}"), id=f"evt_{n}", source="/test", at=AT, trace=headers(n, flags))
        for n, flags in ((1, "01"), (2, "00"))
    ]
    with sending(["t", "t"], sealed) as traces:
        pass
    sent = named(spans, "send t")
    assert sent.kind is SpanKind.PRODUCER
    assert same_trace(traces[0], headers(1))
    assert traces[0] != headers(1)
    assert traces[1] == headers(2, "00")


async def test_a_group_commit_is_in_the_trace_of_each_caller(spans: InMemorySpanExporter) -> None:
    async def write(items: Sequence[int]) -> list[int | BaseException]:
        with mongodb_call("db", "objects", "bulkWrite"):
            await asyncio.sleep(0)
        return list(items)

    commit: BulkWriter[int, int] = BulkWriter(write, name="objects", lanes=1)

    async def request(number: int) -> None:
        with start_span("request", parent=headers(number)):
            await commit.submit(number)

    await asyncio.gather(*(request(number) for number in (1, 2, 3)))
    finished = spans.get_finished_spans()
    assert {trace_of(s) for s in finished if s.name == "commit objects"} == {f"{n:032x}" for n in (1, 2, 3)}
    (group,) = [s for s in finished if s.name == "write objects" and s.links]
    assert links_of(group) | {trace_of(group)} >= {f"{2:032x}", f"{3:032x}"}
    assert all(s.parent is not None for s in finished)


async def test_a_collector_that_never_answers_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "set_tracer_provider", lambda _: None)
    monkeypatch.setattr(tracing, "LAST_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        stop = setup_tracing(ObservabilitySettings(otlp_endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}"), "test")
        try:
            for _ in range(3000):
                with start_span("work"):
                    pass
            others = asyncio.create_task(asyncio.sleep(0.05))
            began = time.monotonic()
            await stop()
            assert time.monotonic() - began < 3
            assert others.done(), "the event loop goes on"
        finally:
            record_with(None)
