"""The consumer behind FastStream's batch subscribers: an ``AIOKafkaConsumer`` that waits instead of polling.

FastStream has no option for the class of its consumers, so :class:`~bucketline.kafka.broker.Broker` replaces their
builder. It is needed because FastStream's batch subscriber

- calls ``getmany`` with a time limit, and sleeps that long again after an empty answer. A record that came after 250 to
  500 ms of silence waited 43 ms on average with the default of 200 ms (90th percentile: 119 ms), and 7.7 ms with a
  limit of 5 ms, which costs 1 % of a core for each idle consumer. Here it waits 4.1 ms, as with ``getone``;
- takes the records of all partitions in one ``getmany``. An error in one partition (a batch that cannot be unpacked)
  discards what was already taken from the others while their position has moved past it: the next commit loses it;
- commits nothing when partitions are revoked, and does not say whether its consumer has joined the group.

The local broker does not wake a waiting fetch when a record arrives, so it is fetched from every 20 ms. An idle
consumer lengthens that to :data:`IDLE_FETCH_WAIT_MS`, since polling kept the broker and the services busy for a whole
core. aiokafka has no public setting for that in a running consumer.
"""

import asyncio
import time
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from inspect import isawaitable
from typing import Any, TypeAlias, cast

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition

from bucketline.observability.logging import get_logger

log = get_logger(__name__)

Record: TypeAlias = "ConsumerRecord[bytes, bytes]"

IDLE_SECONDS = 5.0
"""Time without a record after which a consumer counts as idle."""
IDLE_FETCH_WAIT_MS = 250

REVOKE_SECONDS = 5.0
"""How long the rest of the group waits for a running micro-batch before partitions are revoked."""


class BatchConsumer(AIOKafkaConsumer):  # type: ignore[misc]  # aiokafka is untyped
    """Consumes one topic for one subscriber.

    ``busy_since`` is the monotonic time at which the current micro-batch was handed over, None between two of them.
    ``joined`` is true once the group has assigned this consumer its partitions, which may be none; ``rebalancing`` is
    true from the time they are revoked until they are assigned again.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.busy_since: float | None = None
        self.joined = False
        self.rebalancing = False
        self._idle = asyncio.Event()
        self._idle.set()

    def subscribe(self, topics: Any = (), pattern: Any = None, listener: ConsumerRebalanceListener = None) -> None:
        """Subscribe, and commit before partitions are revoked."""
        super().subscribe(topics=topics, pattern=pattern, listener=_CommitBeforeRevoke(self, listener))

    async def getmany(
        self,
        *_: TopicPartition,
        timeout_ms: int = 0,  # noqa: ARG002 - FastStream passes it
        max_records: int = 500,
    ) -> Mapping[TopicPartition, list[Record]]:
        """Wait for the first record, then add whatever else has been fetched, up to ``max_records``.

        Being asked for more means that the previous micro-batch is done, commit included. ``timeout_ms`` is ignored.
        """
        self.busy_since = None
        self._idle.set()
        first = await self._wait_for_record()
        records = await self._add_fetched(first, max_records - 1)
        self.busy_since = time.monotonic()
        self._idle.clear()
        return records

    async def wait_until_idle(self, seconds: float) -> None:
        """Wait until the running micro-batch has been handled and committed, but at most ``seconds``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()

    async def _wait_for_record(self) -> "Record":
        """Wait for the next record; fetch less often after a while, and as often as configured once one has come."""
        idle_wait = max(self._fetch_max_wait_ms, IDLE_FETCH_WAIT_MS)
        timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._set_fetch_wait, idle_wait)
        try:
            return cast("Record", await self.getone())
        finally:
            timer.cancel()
            self._set_fetch_wait(self._fetch_max_wait_ms)

    def _set_fetch_wait(self, milliseconds: int) -> None:
        if self._fetcher is not None:
            self._fetcher._fetch_max_wait_ms = milliseconds

    async def _add_fetched(self, first: Record, limit: int) -> dict[TopicPartition, list[Record]]:
        """Ask each partition separately: an error in one of them must not cost the records of another.

        The partition of ``first`` comes first, so that partitions take turns in the order in which they were fetched.
        """
        own = TopicPartition(first.topic, first.partition)
        records = {own: [first]}
        for partition in (own, *(self.assignment() - {own})):
            if limit <= 0:
                break
            try:
                found = (await super().getmany(partition, timeout_ms=0, max_records=limit)).get(partition, [])
            except Exception as error:
                # The partition is fetched again from its unchanged position.
                log.warning("fetch failed", topic=first.topic, partition=partition.partition, error=repr(error))
                continue
            if found:
                records.setdefault(partition, []).extend(found)
                limit -= len(found)
        return records


class _CommitBeforeRevoke(ConsumerRebalanceListener):  # type: ignore[misc]  # as above
    """Lets the running micro-batch finish and commit before its partitions move to another member."""

    def __init__(self, consumer: BatchConsumer, inner: ConsumerRebalanceListener | None) -> None:
        self._consumer = consumer
        self._inner = inner

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        self._consumer.rebalancing = True
        await self._consumer.wait_until_idle(REVOKE_SECONDS)
        if self._inner is not None:
            await _settle(self._inner.on_partitions_revoked(revoked))

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._consumer.joined, self._consumer.rebalancing = True, False
        if self._inner is not None:
            await _settle(self._inner.on_partitions_assigned(assigned))


async def _settle(result: Awaitable[object] | None) -> None:
    if isawaitable(result):
        await result
