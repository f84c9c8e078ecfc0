"""Spans with an exporter, and trace ids without one."""

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
from bucketline.events.cloudevents import ReceivedEvent, encode_event
from bucketline.observability import tracing
from bucketline.observability.tracing import (
    MAX_LINKS,
    Scope,
    current_trace,
    current_trace_id,
    is_same_trace,
    is_sampled,
    record_response,
    setup_tracing,
    start_consumer_spans,
    start_mongodb_span,
    start_producer_spans,
    start_s3_span,
    start_server_span,
    start_shared_span,
    start_span,
    use_tracer_provider,
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
    use_tracer_provider(provider)
    yield exporter
    use_tracer_provider(None)


def named(exporter: InMemorySpanExporter, name: str) -> ReadableSpan:
    (found,) = [start_span for start_span in exporter.get_finished_spans() if start_span.name == name]
    return found


def trace_of(found: ReadableSpan) -> str:
    assert found.context is not None
    return format_trace_id(found.context.trace_id)


def links_of(found: ReadableSpan) -> set[str]:
    return {format_trace_id(link.context.trace_id) for link in found.links}


def test_start_span_without_an_exporter_has_a_trace_id() -> None:
    assert current_trace_id() is None
    with start_span("request") as opened:
        first = current_trace_id()
        assert first is not None
        assert not opened.is_recording()
        with start_span("inside"):
            assert current_trace_id() == first
    with start_span("request"):
        assert current_trace_id() != first


def test_start_span_without_an_exporter_keeps_the_trace_of_the_caller() -> None:
    given = {**headers(7), "tracestate": "vendor=1"}
    with start_span("request", parent=given):
        assert current_trace() == given
    with start_span("request", parent={"traceparent": "nonsense"}):
        assert current_trace_id() is not None


def test_client_spans_outside_of_a_recorded_trace_are_not_created(spans: InMemorySpanExporter) -> None:
    with start_mongodb_span("db", "objects", "find"), start_s3_span("PutObject", "b", "k"):
        pass
    with start_span("unsampled", parent=headers(1, "00")), start_mongodb_span("db", "objects", "find"):
        pass
    assert spans.get_finished_spans() == ()


def test_client_spans_have_the_attributes_of_the_conventions(spans: InMemorySpanExporter) -> None:
    with start_span("request"):
        with start_mongodb_span("db", "objects", "find"):
            pass
        for size in (1, 7):
            with start_mongodb_span("db", f"objects {size}", "bulkWrite", size):
                pass
        with pytest.raises(OSError, match="no"), start_s3_span("PutObject", "bucket", "key"):
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


def test_shared_span_is_a_child_of_the_first_recorded_trace_and_linked_to_the_others(
    spans: InMemorySpanExporter,
) -> None:
    with start_shared_span(
        "write", [None, {}, headers(9, "00"), headers(1), headers(2), headers(2), headers(3)]
    ) as own:
        assert own is not None
        assert is_sampled(own)
    write = named(spans, "write")
    assert trace_of(write) == f"{1:032x}"
    assert links_of(write) == {f"{2:032x}", f"{3:032x}"}


def test_shared_span_with_many_traces_has_a_limited_number_of_links(spans: InMemorySpanExporter) -> None:
    with start_shared_span("write", [headers(n + 1) for n in range(1000)]):
        pass
    assert len(named(spans, "write").links) == MAX_LINKS


def test_shared_span_for_unrecorded_traces_is_not_created(spans: InMemorySpanExporter) -> None:
    with start_shared_span("write", [headers(1, "00"), None]) as own:
        assert own is None
    assert spans.get_finished_spans() == ()


def received(number: int, flags: str = "01") -> ReceivedEvent:
    return ReceivedEvent(deleted(f"obj_{number}"), f"evt_{number}", "/test", headers(number, flags), 2, 40 + number)


def test_consumer_spans_of_a_micro_batch_stay_in_their_traces(spans: InMemorySpanExporter) -> None:
    with (
        start_consumer_spans("t", "g", [received(1), received(2)]) as traced,
        start_mongodb_span("db", "objects", "bulkWrite"),
    ):
        pass
    one, two = [s for s in spans.get_finished_spans() if s.name == "process t"]
    assert [trace_of(one), trace_of(two)] == [f"{1:032x}", f"{2:032x}"]
    assert all(is_same_trace(record.trace, headers(n)) for n, record in ((1, traced[0]), (2, traced[1])))
    assert one.attributes is not None
    assert one.attributes["messaging.kafka.offset"] == 41
    assert one.attributes["messaging.destination.partition.id"] == "2"
    assert "messaging.batch.message_count" not in one.attributes, "it is a span of one message"
    handled, bulk = named(spans, "handle t"), named(spans, "bulkWrite objects")
    assert links_of(handled) == {f"{2:032x}"}
    assert handled.context is not None
    assert bulk.parent is not None
    assert bulk.parent.span_id == handled.context.span_id


def test_consumer_span_of_a_single_record_is_the_current_span(spans: InMemorySpanExporter) -> None:
    def handle() -> None:
        with start_consumer_spans("t", "g", [received(1)]):
            with start_mongodb_span("db", "objects", "find"):
                pass
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        handle()
    processed, find = named(spans, "process t"), named(spans, "find objects")
    assert processed.context is not None
    assert find.parent is not None
    assert find.parent.span_id == processed.context.span_id
    assert processed.status.status_code is StatusCode.ERROR


def test_producer_span_is_in_the_headers_of_the_record(spans: InMemorySpanExporter) -> None:
    sealed = [
        encode_event(deleted(f"obj_{n}"), id=f"evt_{n}", source="/test", at=AT, trace=headers(n, flags))
        for n, flags in ((1, "01"), (2, "00"))
    ]
    with start_producer_spans(["t", "t"], sealed) as traces:
        pass
    sent = named(spans, "send t")
    assert sent.kind is SpanKind.PRODUCER
    assert is_same_trace(traces[0], headers(1))
    assert traces[0] != headers(1)
    assert traces[1] == headers(2, "00")


async def test_bulk_write_is_in_the_trace_of_each_caller(spans: InMemorySpanExporter) -> None:
    async def write(items: Sequence[int]) -> list[int | BaseException]:
        with start_mongodb_span("db", "objects", "bulkWrite"):
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


async def test_shutdown_with_a_silent_collector_ends_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "set_tracer_provider", lambda _: None)
    monkeypatch.setattr(tracing, "SHUTDOWN_TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        stop = setup_tracing(
            ObservabilitySettings(otlp_endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}"), "test", {}
        )
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
            use_tracer_provider(None)


def build_scope(method: str = "GET", path: str = "/v1/things/7") -> Scope:
    headers = [(b"host", b"api.example.com:8080")]
    return {"method": method, "path": path, "scheme": "http", "http_version": "1.1", "headers": headers}


def test_server_span_is_named_after_the_route(spans: InMemorySpanExporter) -> None:
    with start_server_span(build_scope(), {}) as opened:
        record_response(opened, build_scope(), "/v1/things/{thing}", 200)
    found = named(spans, "GET /v1/things/{thing}")
    assert found.kind is SpanKind.SERVER
    assert found.status.status_code is StatusCode.UNSET
    assert found.attributes == {
        "http.request.method": "GET",
        "http.route": "/v1/things/{thing}",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "url.path": "/v1/things/7",
        "server.address": "api.example.com",
        "network.protocol.version": "1.1",
    }


@pytest.mark.parametrize(
    ("host", "address"), [(b"[::1]:8080", "[::1]"), (b"[::", None), (b"", None), (b"a.example", "a.example")]
)
def test_server_address_is_the_host_of_the_request(
    spans: InMemorySpanExporter, host: bytes, address: str | None
) -> None:
    with start_server_span({**build_scope(), "headers": [(b"host", host)]}, {}):
        pass
    assert (named(spans, "GET").attributes or {}).get("server.address") == address


async def test_client_spans_have_the_address_of_their_server(
    spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "set_tracer_provider", lambda _: None)
    monkeypatch.setattr(tracing, "use_tracer_provider", lambda _: None)
    monkeypatch.setattr(tracing, "_servers", {})
    urls = {
        "mongodb": "mongodb://user:secret@db1.example:27017,db2.example/?w=majority",
        "s3": "https://s3.example.com",
    }
    stop = setup_tracing(ObservabilitySettings(otlp_endpoint="http://127.0.0.1:9"), "test", urls)
    with start_span("request"), start_mongodb_span("db", "objects", "find"), start_s3_span("PutObject", "b", "k"):
        pass
    await stop()
    addresses = {span.name: (span.attributes or {}).get("server.address") for span in spans.get_finished_spans()}
    assert addresses["find objects"] == "db1.example"
    assert addresses["S3.PutObject"] == "s3.example.com"


def test_server_span_with_5xx_is_an_error_and_with_4xx_is_not(spans: InMemorySpanExporter) -> None:
    for status in (404, 503):
        with start_server_span(build_scope(), {}) as opened:
            record_response(opened, build_scope(), f"/{status}", status)
    missing, broken = named(spans, "GET /404"), named(spans, "GET /503")
    assert missing.attributes is not None
    assert broken.attributes is not None
    assert (missing.status.status_code, missing.attributes.get("error.type")) == (StatusCode.UNSET, None)
    assert (broken.status.status_code, broken.attributes.get("error.type")) == (StatusCode.ERROR, "503")


def test_server_span_of_an_unknown_method_does_not_contain_it(spans: InMemorySpanExporter) -> None:
    scope = build_scope("PROPFIND", "/../secret")
    with start_server_span(scope, {}) as opened:
        record_response(opened, scope, None, 404)
    found = named(spans, "HTTP")
    assert found.attributes is not None
    assert found.attributes["http.request.method"] == "_OTHER"
    assert found.attributes["http.request.method_original"] == "PROPFIND"
    assert "http.route" not in found.attributes
