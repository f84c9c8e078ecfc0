"""A second service's view of the bus: a plain Kafka client that knows nothing of our library."""

import json
import re
from datetime import datetime

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from tests.conftest import Api, Services
from tests.waiting import completed, eventually

pytestmark = pytest.mark.stack

TOPICS = ("bucketline.objects.v1", "bucketline.objects.mirrored.v1", "bucketline.objects.status.v1")
REQUIRED = {"ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject", "ce_time", "content-type"}


async def test_a_subscriber_sees_the_events_of_one_object_in_order(services: Services, api: Api) -> None:
    namespace = await api.namespace()
    client = api.client(namespace)
    bucket = await api.bucket(namespace)
    body = {"blobs": [{"property": "note", "type": "text", "data": "for subscribers"}], "name": "watched"}
    created = await client.post(f"/v1/buckets/{bucket}/objects", body, auto_process="true")
    object_id = created["object_id"]
    await eventually(lambda: completed(client, f"/v1/buckets/{bucket}/objects/{object_id}"))

    records = await records_of(services.stack.kafka_bootstrap, object_id)
    for record in records:
        headers = dict(record.headers)
        assert set(headers) >= REQUIRED
        assert headers["ce_specversion"] == b"1.0"
        assert headers["content-type"] == b"application/json"
        assert headers["ce_subject"].decode() == record.key.decode() == object_id
        assert re.fullmatch(r"/bucketline/[a-z-]+", headers["ce_source"].decode())
        datetime.fromisoformat(headers["ce_time"].decode())
        assert json.loads(record.value)["object_id"] == object_id
    assert len({(dict(r.headers)["ce_source"], dict(r.headers)["ce_id"]) for r in records}) == len(records)

    by_topic = {topic: [kind(r) for r in records if r.topic == topic] for topic in TOPICS}
    assert by_topic["bucketline.objects.v1"] == ["bucketline.object.created.v1"]
    assert by_topic["bucketline.objects.mirrored.v1"] == ["bucketline.object.mirrored.v1"]
    statuses = [json.loads(r.value)["status"] for r in records if r.topic == "bucketline.objects.status.v1"]
    assert statuses == ["PROCESSING", "COMPLETED"]
    traces = {dict(r.headers)["traceparent"].decode().split("-")[1] for r in records}
    assert len(traces) == 1, "every event of the object belongs to the trace of its request"


def kind(record: "ConsumerRecord[bytes, bytes]") -> str:
    return str(dict(record.headers)["ce_type"], "utf-8")


async def records_of(bootstrap: str, object_id: str) -> list["ConsumerRecord[bytes, bytes]"]:
    """Every record of the object, in the order of each partition, read from the start without a group."""
    consumer = AIOKafkaConsumer(
        *TOPICS, bootstrap_servers=bootstrap, auto_offset_reset="earliest", fetch_max_wait_ms=50
    )
    await consumer.start()
    try:
        partitions = consumer.assignment()
        ends = await consumer.end_offsets(partitions)
        await consumer.seek_to_beginning(*partitions)
        found = []
        while any([await consumer.position(p) < end for p, end in ends.items()]):
            batches = await consumer.getmany(timeout_ms=500)
            found += [r for batch in batches.values() for r in batch if r.key == object_id.encode()]
        return found
    finally:
        await consumer.stop()
