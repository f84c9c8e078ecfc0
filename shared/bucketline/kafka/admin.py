"""Compares the topics on the broker with the table of topics, and creates missing ones."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    KafkaError,
    TopicAlreadyExistsError,
    for_code,
)

from bucketline.errors import RetryableError
from bucketline.events.topics import (
    DEAD_LETTER_PARTITIONS,
    DEAD_LETTER_RETENTION_MS,
    TOPICS,
    dead_letter_topics,
    is_dead_letter_topic,
)
from bucketline.kafka.client_config import client_options
from bucketline.kafka.publisher import MAX_RECORD
from bucketline.settings import KafkaSettings

Fault = Literal["missing", "partitions", "retention", "copies"]
"""The property in which a topic falls short of its configuration."""


@dataclass(frozen=True)
class TopicState:
    """A topic as configured and as it is on the broker.

    ``partitions`` and ``copies``, the smallest number of replicas, are None if the topic does not exist. ``kept_ms`` is
    its retention, -1 if unlimited and None if unknown.
    """

    name: str
    wanted_partitions: int
    retention_ms: int
    partitions: int | None
    copies: int | None = None
    kept_ms: int | None = None
    wanted_copies: int = 1

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What the topic has too little of. More than configured is fine."""
        if self.partitions is None:
            return ("missing",)
        lacking: Mapping[Fault, bool] = {
            "partitions": self.partitions < self.wanted_partitions,
            "retention": self.kept_ms is not None and 0 <= self.kept_ms < self.retention_ms,
            "copies": self.copies is not None and self.copies < self.wanted_copies,
        }
        return tuple(fault for fault, found in lacking.items() if found)


def wanted(settings: KafkaSettings) -> Iterator[tuple[str, int, int]]:
    """Yield name (with prefix), partitions and retention in ms of every topic, dead-letter topics included."""
    for topic in TOPICS:
        yield settings.topic_prefix + topic.name, topic.partitions, topic.retention_ms
    for _, _, name in dead_letter_topics():
        yield settings.topic_prefix + name, DEAD_LETTER_PARTITIONS, DEAD_LETTER_RETENTION_MS


@dataclass(frozen=True)
class ConsumerLag:
    """How many records of a topic, named without its prefix, a service has not processed yet."""

    service: str
    topic: str
    records: int


async def check_topics(settings: KafkaSettings, *, retention: bool = False) -> list[TopicState]:
    """Return the state of each topic. ``retention`` needs the permission to read topic configurations."""
    async with _admin_client(settings) as admin:
        existing = set(await admin.list_topics())
        names = [name for name, _, _ in wanted(settings) if name in existing]
        described = await admin.describe_topics(names) if names else []
        counts = {row["topic"]: len(row["partitions"]) for row in described}
        copies = {row["topic"]: min((len(p["replicas"]) for p in row["partitions"]), default=0) for row in described}
        kept = await _kept(admin, names) if retention and names else {}
    return [
        TopicState(
            name,
            partitions,
            retention_ms,
            counts.get(name),
            copies.get(name),
            kept.get(name),
            settings.replication_factor,
        )
        for name, partitions, retention_ms in wanted(settings)
    ]


async def _kept(admin: Any, names: Sequence[str]) -> dict[str, int]:
    """Return the retention of the topics whose configuration the broker returns."""
    asked = [ConfigResource(ConfigResourceType.TOPIC, name, configs={"retention.ms": ""}) for name in names]
    try:
        answers = await admin.describe_configs(asked)
    except KafkaError:  # the local broker does not support this request
        return {}
    return {
        topic: int(value)
        for answer in answers
        for _, _, _, topic, entries in answer.resources
        for name, value, *_ in entries
        if name == "retention.ms"
    }


async def cluster(settings: KafkaSettings) -> int:
    """Return the number of brokers."""
    async with _admin_client(settings) as admin:
        return len((await admin.describe_cluster())["brokers"])


async def denied_groups(settings: KafkaSettings, groups: Sequence[str]) -> list[str]:
    """Return the consumer groups, which need not exist, that this user may not use."""
    denied = []
    async with _admin_client(settings) as admin:
        for group in groups:
            try:
                await admin.find_coordinator(group)
            except GroupAuthorizationFailedError:
                denied.append(group)
            except GroupCoordinatorNotAvailableError:  # a broker that has just started has no coordinator yet
                continue
    return denied


async def measure_lag(settings: KafkaSettings) -> list[ConsumerLag]:
    """Return how many records each consumer group has not committed, in the order of the pipeline."""
    partitions = {state.name: state.partitions or 0 for state in await check_topics(settings)}
    rows = []
    consumer = AIOKafkaConsumer(
        **client_options(settings), enable_auto_commit=False, request_timeout_ms=settings.request_timeout_ms
    )
    async with _admin_client(settings) as admin:
        try:
            await consumer.start()
            for topic in TOPICS:
                name = settings.topic_prefix + topic.name
                keys = [TopicPartition(name, number) for number in range(partitions[name])]
                ends = await consumer.end_offsets(keys) if keys else {}
                for service in topic.consumers:
                    group = settings.group_prefix + topic.group(service)
                    committed = await admin.list_consumer_group_offsets(group, partitions=keys)
                    # A group that has committed nothing starts at the beginning.
                    lag = sum(max(0, end - max(0, committed[key].offset)) for key, end in ends.items())
                    rows.append(ConsumerLag(service, topic.name, lag))
        finally:
            await consumer.stop()
    return rows


async def ensure_topics(settings: KafkaSettings) -> list[str]:
    """Create missing topics and return their names. Existing topics are not changed."""
    missing = [state for state in await check_topics(settings) if state.partitions is None]
    if not missing:
        return []
    async with _admin_client(settings) as admin:
        answer = await admin.create_topics(
            [
                NewTopic(
                    state.name,
                    state.wanted_partitions,
                    settings.replication_factor,
                    topic_configs={
                        "retention.ms": str(state.retention_ms),
                        # A dead letter is a record of the usual maximum size plus its failure context.
                        **({"max.message.bytes": str(MAX_RECORD)} if is_dead_letter_topic(state.name) else {}),
                    },
                )
                for state in missing
            ]
        )
    for name, code, *_ in answer.topic_errors:
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:
            raise RetryableError(f"topic {name} could not be created: {error.__name__}")
    return [state.name for state in missing]


@asynccontextmanager
async def _admin_client(settings: KafkaSettings) -> AsyncIterator[Any]:
    client = AIOKafkaAdminClient(**client_options(settings), request_timeout_ms=settings.request_timeout_ms)
    try:
        await client.start()
        yield client
    finally:
        await client.close()
