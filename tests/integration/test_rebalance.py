"""Two members of one consumer group on the real broker: partitions move after the running micro-batch is committed."""

import asyncio
import secrets
from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated

import pytest
from faststream import AckPolicy
from faststream.kafka import KafkaRouter
from tests.brokers import kafka_settings
from tests.waiting import eventually

from bucketline.clock import SystemClock
from bucketline.devstack.stack import LocalStack
from bucketline.events.cloudevents import Events, encode_event
from bucketline.events.models import ObjectDeleted
from bucketline.events.topics import OBJECTS
from bucketline.kafka.admin import ensure_topics
from bucketline.kafka.broker import KafkaRuntime, Provided, event_router
from bucketline.kafka.publisher import KafkaPublisher

pytestmark = pytest.mark.stack

RECORDS = 60


@dataclass
class Handled:
    """How often each object was handled, by the member of the group. A micro-batch waits until ``gate`` is set."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    times: Counter[str] = field(default_factory=Counter)
    members: set[str] = field(default_factory=set)


def router() -> KafkaRouter:
    """A router for one member: FastStream's routers belong to one broker."""
    made = event_router()

    @made.subscriber(OBJECTS.name, group_id=OBJECTS.group("dedup"), batch=True, ack_policy=AckPolicy.MANUAL)
    async def handle(
        records: Events[ObjectDeleted], handled: Annotated[Handled, Provided()], member: Annotated[str, Provided()]
    ) -> None:
        handled.begun.set()
        await handled.gate.wait()
        handled.times.update(record.event.object_id for record in records)
        handled.members.add(member)

    return made


async def test_rebalance_redelivers_no_record_of_the_running_micro_batch(stack: LocalStack) -> None:
    own = f"rebalance-{secrets.token_hex(4)}."
    settings = kafka_settings(
        stack,
        topic_prefix=own,
        group_prefix=own,
        fetch_max_wait_ms=5,
        session_timeout_ms=6000,
        heartbeat_interval_ms=500,
        max_batch_size=5,
    )
    await ensure_topics(settings)
    now = SystemClock().now()
    expected = [f"obj_{number}" for number in range(RECORDS)]
    events = [
        ObjectDeleted(object_id=one, bucket_id="b", namespace_id="n", revision=1, deleted_at=now) for one in expected
    ]
    handled = Handled()
    first, second = (KafkaRuntime(settings, "dedup", clock=SystemClock()) for _ in range(2))
    first.include(router(), handled=handled, member="first")
    second.include(router(), handled=handled, member="second")
    (consumes,) = first.broker.subscribers

    async def rebalancing() -> bool:
        return bool(consumes.consumer and consumes.consumer.rebalancing)  # type: ignore[attr-defined]  # ours

    async def assigned_again() -> bool:
        return not await rebalancing()

    async def all_handled() -> bool:
        return handled.times.keys() == set(expected)

    async with KafkaPublisher(settings) as publisher, first:
        await publisher.publish([encode_event(event, id=event.object_id, source="/test", at=now) for event in events])
        await asyncio.wait_for(handled.begun.wait(), 30)
        async with second:
            await eventually(rebalancing, pause=0.01)
            # The group waits for the micro-batch: it must not assign partitions again before the commit.
            with pytest.raises(AssertionError):
                await eventually(assigned_again, deadline=4, pause=0.01)
            handled.gate.set()
            await eventually(all_handled)
            more = [f"more_{number}" for number in range(RECORDS)]
            await publisher.publish(
                [
                    encode_event(event.model_copy(update={"object_id": one}), id=one, source="/test", at=now)
                    for event, one in zip(events, more, strict=True)
                ]
            )
            expected += more
            await eventually(all_handled)
    assert handled.members == {"first", "second"}
    assert {one: times for one, times in handled.times.items() if times > 1} == {}
