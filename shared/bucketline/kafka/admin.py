"""Topics on the broker: check that they are as the table says, and (local stack, or on demand) make them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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


@dataclass(frozen=True)
class TopicState:
    """A topic as it should be and as it is; ``partitions`` and ``copies`` (the fewest of one) are None if missing.

    ``kept_ms`` is how long it keeps records, -1 for ever; None where that was not asked for or not told.
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
        """What there is too little of. More than is wanted is fine."""
        if self.partitions is None:
            return ("missing",)
        lacking: Mapping[Fault, bool] = {
            "partitions": self.partitions < self.wanted_partitions,
            "retention": self.kept_ms is not None and 0 <= self.kept_ms < self.retention_ms,
            "copies": self.copies is not None and self.copies < self.wanted_copies,
        }
        return tuple(fault for fault, found in lacking.items() if found)


def wanted(settings: KafkaSettings) -> Iterator[tuple[str, int, int]]:
    """Name, partitions and retention (ms) of every topic, dead-letter topics included, with the deployment's prefix."""
    for topic in TOPICS:
        yield settings.topic_prefix + topic.name, topic.partitions, topic.retention_ms
    for _, _, name in dead_letter_topics():
        yield settings.topic_prefix + name, DEAD_LETTER_PARTITIONS, DEAD_LETTER_RETENTION_MS


async def check_topics(settings: KafkaSettings, *, retention: bool = False) -> list[TopicState]:
    """How each topic stands on the broker; with ``retention`` also how long it keeps records, which costs a right."""
    async with _Admin(settings) as admin:
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
    """How long each topic keeps its records, of those whose settings we are told."""
    asked = [ConfigResource(ConfigResourceType.TOPIC, name, configs={"retention.ms": ""}) for name in names]
    try:
        answers = await admin.describe_configs(asked)
    except KafkaError:  # the local broker does not know the question
        return {}
    return {
        topic: int(value)
        for answer in answers
        for _, _, _, topic, entries in answer.resources
        for name, value, *_ in entries
        if name == "retention.ms"
    }


async def cluster(settings: KafkaSettings) -> int:
    """How many brokers there are."""
    async with _Admin(settings) as admin:
        return len((await admin.describe_cluster())["brokers"])


async def denied_groups(settings: KafkaSettings, groups: Sequence[str]) -> list[str]:
    """Return the consumer groups, which need not exist, that this user may not use."""
    denied = []
    async with _Admin(settings) as admin:
        for group in groups:
            try:
                await admin.find_coordinator(group)
            except GroupAuthorizationFailedError:
                denied.append(group)
            except GroupCoordinatorNotAvailableError:  # a broker that has just started has no coordinator yet
                continue
    return denied


async def ensure_topics(settings: KafkaSettings) -> list[str]:
    """Makes the topics that are missing; returns their names. Never changes one that exists."""
    missing = [state for state in await check_topics(settings) if state.partitions is None]
    if not missing:
        return []
    async with _Admin(settings) as admin:
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
            raise RetryableError(f"topic {name} could not be made: {error.__name__}")
    return [state.name for state in missing]


class _Admin:
    """An admin client for the length of a block."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._client = AIOKafkaAdminClient(**client_options(settings), request_timeout_ms=settings.request_timeout_ms)

    async def __aenter__(self) -> Any:
        await self._client.start()
        return self._client

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()
