"""One trace from the request through every topic and database to the final status, without orphan spans."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import aiohttp
import pytest
from tests.conftest import ADMIN_KEY, FAST, Api
from tests.integration import conventions
from tests.integration.collector import Collector, Exported
from tests.waiting import eventually

from bucketline.devstack.stack import LocalStack
from bucketline.devstack.supervisor import Supervisor, bucketline_services

pytestmark = pytest.mark.stack

OBJECTS = "/v1/buckets/{bucket_identifier}/objects"


@dataclass
class Traced:
    """Services that export their traces, with topics and a database that no other test uses."""

    api: Api
    collector: Collector
    prefix: str
    services: Supervisor
    followed: list[str] = field(default_factory=list)

    async def whole(self, trace: str, expected: set[tuple[str, str, str]]) -> list[Exported]:
        """The spans of a trace once all of ``expected`` (service, kind, name) are there and each has its parent.

        Others may come later; the last test looks at those.
        """
        self.followed.append(trace)

        async def complete() -> list[Exported] | None:
            spans = self.collector.of(trace)
            found = {(span.service, span.kind, span.name) for span in spans}
            self.missing = expected - found
            self.orphans = orphans(spans)
            return None if self.missing or self.orphans else spans

        try:
            return await eventually(complete, deadline=60)
        except AssertionError:
            spans = "\n".join(map(str, self.collector.of(trace)))
            raise AssertionError(f"missing {self.missing}; orphans {self.orphans}; of\n{spans}") from None


def orphans(spans: list[Exported]) -> list[str]:
    ids = {span.id for span in spans}
    return [str(span) for span in spans if span.parent and span.parent not in ids]


@pytest.fixture(scope="module")
async def traced(stack: LocalStack) -> AsyncIterator[Traced]:
    own = f"traced-{secrets.token_hex(4)}"
    async with Collector() as collector:
        environment = {
            **stack.environment(),
            **FAST,
            "BUCKETLINE_API_KEY": ADMIN_KEY,
            "BUCKETLINE_MONGODB_DATABASE": own,
            "BUCKETLINE_KAFKA_TOPIC_PREFIX": f"{own}.",
            "BUCKETLINE_KAFKA_GROUP_PREFIX": f"{own}.",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "300",
        }
        async with Supervisor(bucketline_services(environment)) as supervisor:
            api = Api(supervisor.url("ingest-api"))
            yield Traced(api, collector, f"{own}.", supervisor)
            await api.close()


async def test_trace_of_an_object_has_every_stage_and_no_orphan(traced: Traced) -> None:
    namespace = await traced.api.namespace()
    client = traced.api.client(namespace)
    bucket = await traced.api.bucket(namespace)
    await traced.api.collection(namespace, bucket)
    note = {"property": "note", "type": "text", "data": f"once {secrets.token_hex(8)}"}
    body = {"blobs": [note], "name": "traced"}
    created = await client.post(f"/v1/buckets/{bucket}/objects", body, auto_process="true")

    root = await eventually(lambda: first(traced.collector, "ingest-api", "SERVER", f"POST {OBJECTS}"))
    p = traced.prefix
    spans = await traced.whole(
        root.trace,
        {
            ("ingest-api", "SERVER", f"POST {OBJECTS}"),
            ("ingest-api", "INTERNAL", "commit objects"),
            ("ingest-api", "CLIENT", "bulkWrite objects"),
            ("ingest-api", "PRODUCER", f"send {p}objects.v1"),
            ("dedup", "CONSUMER", f"process {p}objects.v1"),
            ("dedup", "CLIENT", "S3.PutObject"),
            ("dedup", "CLIENT", "bulkWrite objects"),
            ("dedup", "PRODUCER", f"send {p}objects.mirrored.v1"),
            ("batcher", "CONSUMER", f"process {p}objects.mirrored.v1"),
            ("batcher", "INTERNAL", "plan unit"),
            ("batcher", "PRODUCER", f"send {p}batches.work.v1"),
            ("processor", "CONSUMER", f"process {p}batches.work.v1"),
            ("processor", "INTERNAL", "work on unit"),
            ("processor", "INTERNAL", "process object"),
            ("processor", "INTERNAL", "extract"),
            ("processor", "CLIENT", "bulkWrite documents"),
            ("processor", "PRODUCER", f"send {p}objects.status.v1"),
            ("ingest-api", "CONSUMER", f"process {p}objects.status.v1"),
            ("batcher", "CONSUMER", f"process {p}objects.status.v1"),
            ("batcher", "PRODUCER", f"send {p}batches.v1"),
        },
    )
    assert [span.name for span in spans if not span.parent] == [f"POST {OBJECTS}"]

    (stored,) = [span for span in spans if span.name == "S3.PutObject"]
    assert stored.attributes["rpc.system.name"] == "aws-api"
    assert str(stored.attributes["aws.s3.key"]).startswith("blobs/sha256/")
    documents = next(span for span in spans if span.name == "bulkWrite documents")
    assert documents.attributes["db.system.name"] == "mongodb"
    assert documents.attributes["db.collection.name"] == "documents"
    consumed = next(span for span in spans if span.name == f"process {p}objects.v1")
    assert consumed.attributes["messaging.system"] == "kafka"
    assert consumed.attributes["messaging.destination.name"] == f"{p}objects.v1"
    assert consumed.attributes["messaging.consumer.group.name"] == f"{p}dedup.objects.v1"
    assert consumed.attributes["cloudevents.event_subject"] == created["object_id"]


async def test_objects_of_a_batch_keep_their_traces_and_are_linked_to_their_unit(traced: Traced) -> None:
    namespace = await traced.api.namespace()
    client = traced.api.client(namespace)
    bucket = await traced.api.bucket(namespace)
    await traced.api.collection(namespace, bucket)
    parents = [f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01" for _ in range(4)]
    bodies = [{"blobs": [{"property": "note", "type": "text", "data": f"n{n}"}], "name": str(n)} for n in range(4)]

    async def create(body: Mapping[str, object], parent: str) -> str:
        headers = {"Authorization": f"Bearer {ADMIN_KEY}", "X-Namespace": namespace, "traceparent": parent}
        url = f"{traced.api.url}/v1/buckets/{bucket}/objects"
        async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as answer:
            assert answer.status == 200
            return str((await answer.json())["object_id"])

    ids = await asyncio.gather(*(create(body, parent) for body, parent in zip(bodies, parents, strict=True)))
    batch = await client.post(f"/v1/buckets/{bucket}/batches", {"object_ids": list(ids)})
    await client.post(f"/v1/buckets/{bucket}/batches/{batch['batch_id']}/submit")

    traces = {parent.split("-")[1] for parent in parents}
    processed = await eventually(lambda: every(traced.collector, "process object", traces), deadline=60)
    planned = await eventually(lambda: linking(traced.collector, "plan unit", traces))
    (submitted,) = {span.trace for span in planned}
    assert all(submitted in span.links for span in processed)


async def test_error_response_has_the_trace_id_of_the_caller(traced: Traced) -> None:
    trace = secrets.token_hex(16)
    headers = {"Authorization": f"Bearer {ADMIN_KEY}", "traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{traced.api.url}/v1/namespaces/nobody", headers=headers) as answer,
    ):
        assert answer.status == 404
        assert answer.headers["X-Trace-Id"] == trace
    await eventually(lambda: every(traced.collector, "find namespaces", {trace}))


async def test_span_attributes_belong_to_current_conventions(traced: Traced) -> None:
    """Of all spans that the tests above made."""
    known = conventions.current()
    assert {"http.route", "messaging.kafka.offset", "rpc.system.name"} <= known
    assert not {"http.method", "messaging.kafka.message.offset", "rpc.system"} & known
    kinds = set()
    for span in traced.collector.spans:
        names = set(span.attributes)
        strange = {name for name in names if not name.startswith("bucketline.")} - known
        assert not strange, (str(span), strange)
        lacking = conventions.required(span.kind, names) - names
        assert not lacking, (str(span), lacking)
        kinds.add(span.kind)
    assert kinds == {"SERVER", "CLIENT", "PRODUCER", "CONSUMER", "INTERNAL"}


async def test_traces_have_no_orphan_after_the_services_have_stopped(traced: Traced) -> None:
    """Of the traces that the tests above followed, once the services have ended and exported what they had."""
    await traced.services.stop()
    assert traced.followed
    for trace in traced.followed:
        assert orphans(traced.collector.of(trace)) == []


async def first(collector: Collector, service: str, kind: str, name: str) -> Exported | None:
    wanted = service, kind, name
    return next((span for span in collector.spans if (span.service, span.kind, span.name) == wanted), None)


async def every(collector: Collector, name: str, traces: set[str]) -> list[Exported] | None:
    """The spans of this name, once each of the traces has one."""
    found = [span for span in collector.spans if span.name == name and span.trace in traces]
    return found if {span.trace for span in found} == traces else None


async def linking(collector: Collector, name: str, traces: set[str]) -> list[Exported] | None:
    """The spans of this name with links to these traces, once each is linked to: objects may come one by one."""
    found = [span for span in collector.spans if span.name == name and span.links & traces]
    return found if set[str]().union(*(span.links for span in found)) >= traces else None
