"""An idle consumer fetches less often, and as often as configured again once a record has arrived."""

import asyncio
import secrets
from typing import Annotated, Any

import aiokafka.consumer.fetcher
import pytest
from faststream import AckPolicy
from tests.brokers import kafka_settings
from tests.waiting import eventually

from bucketline.clock import SystemClock
from bucketline.devstack.stack import LocalStack
from bucketline.events.cloudevents import Events, encode_event
from bucketline.events.models import ObjectDeleted
from bucketline.events.topics import OBJECTS
from bucketline.kafka import batch_consumer
from bucketline.kafka.admin import ensure_topics
from bucketline.kafka.broker import KafkaRuntime, Provided, event_router

pytestmark = pytest.mark.stack

FETCH_WAIT_MS = 20


async def test_fetch_wait_of_an_idle_consumer_is_long_until_a_record_arrives(
    stack: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[int] = []
    original = aiokafka.consumer.fetcher.FetchRequest

    def record_wait(max_wait_ms: int, *rest: Any, **options: Any) -> object:
        waits.append(max_wait_ms)
        return original(max_wait_ms, *rest, **options)

    monkeypatch.setattr(aiokafka.consumer.fetcher, "FetchRequest", record_wait)
    monkeypatch.setattr(batch_consumer, "IDLE_SECONDS", 0.5)
    own = f"idle-{secrets.token_hex(4)}."
    settings = kafka_settings(
        stack,
        topic_prefix=own,
        group_prefix=own,
        fetch_max_wait_ms=FETCH_WAIT_MS,
        session_timeout_ms=6000,
        heartbeat_interval_ms=500,
    )
    await ensure_topics(settings)
    handled = asyncio.Event()
    router = event_router()

    @router.subscriber(OBJECTS.name, group_id=OBJECTS.group("dedup"), batch=True, ack_policy=AckPolicy.MANUAL)
    async def handle(records: Events[ObjectDeleted], handled: Annotated[asyncio.Event, Provided()]) -> None:
        handled.set()

    async def fetches_with(wait_ms: int) -> bool:
        return waits[-1:] == [wait_ms]

    runtime = KafkaRuntime(settings, "dedup", clock=SystemClock())
    runtime.include(router, handled=handled)
    async with runtime:
        await eventually(lambda: fetches_with(FETCH_WAIT_MS), pause=0.001)
        await eventually(lambda: fetches_with(batch_consumer.IDLE_FETCH_WAIT_MS), pause=0.001)
        now = SystemClock().now()
        event = ObjectDeleted(object_id="obj_1", bucket_id="b", namespace_id="n", revision=1, deleted_at=now)
        await runtime.publisher.publish([encode_event(event, id="evt_1", source="/test", at=now)])
        await asyncio.wait_for(handled.wait(), 10)
        await eventually(lambda: fetches_with(FETCH_WAIT_MS), pause=0.001)
