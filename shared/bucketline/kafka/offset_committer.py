"""Committing what is handled: in the background, one commit at a time, never for a consumer that is gone."""

import asyncio
from collections.abc import Iterable
from typing import TypeAlias

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from bucketline.observability.logging import get_logger

log = get_logger(__name__)

SETTLE_SECONDS = 5.0

Record: TypeAlias = "ConsumerRecord[bytes, bytes]"


class Commits:
    """The offsets of one topic for one consumer group.

    A commit that fails costs nothing but repetition: the records come again, and handlers are idempotent.
    """

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._offsets: dict[TopicPartition, int] = {}
        self._committing: asyncio.Task[None] | None = None

    def handled(self, records: Iterable[Record], consumer: AIOKafkaConsumer) -> None:
        """Commits them soon. What is handled while a commit is under way goes into the next."""
        for record in records:
            self._offsets[TopicPartition(record.topic, record.partition)] = record.offset + 1
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit(consumer))

    async def settle(self) -> None:
        """Waits for the commit under way, for at most ``SETTLE_SECONDS``."""
        if self._committing is not None:
            await asyncio.wait([self._committing], timeout=SETTLE_SECONDS)

    def forget(self) -> None:
        """Gives up the commit under way. While the broker is away it is tried without end, the consumer stopped or not:
        the next consumer could never commit."""
        self._offsets.clear()
        if self._committing is not None:
            self._committing.cancel()
            self._committing = None

    async def _commit(self, consumer: AIOKafkaConsumer) -> None:
        while self._offsets:
            owned = consumer.assignment()
            offsets = {partition: offset for partition, offset in self._offsets.items() if partition in owned}
            self._offsets.clear()
            if not offsets:
                return
            try:
                await consumer.commit(offsets)
            except KafkaError as error:
                log.info("offsets not committed", topic=self._topic, error=type(error).__name__)
                return
