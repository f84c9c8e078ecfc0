"""Topics on the broker: check that they are as the table says, and (local stack, or on demand) make them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code

from bucketline.errors import Transient
from bucketline.events.topics import PARKING_PARTITIONS, PARKING_RETENTION_MS, TOPICS, is_parking, parking_topics
from bucketline.messaging.connection import client_options
from bucketline.messaging.publisher import LARGEST_RECORD
from bucketline.settings import KafkaSettings


@dataclass(frozen=True)
class TopicState:
    """A topic as it should be and as it is; ``partitions`` and ``copies`` (the fewest of one) are None if missing."""

    name: str
    wanted_partitions: int
    retention_ms: int
    partitions: int | None
    copies: int | None = None

    @property
    def good(self) -> bool:
        return self.partitions is not None and self.partitions >= self.wanted_partitions


def wanted(settings: KafkaSettings) -> Iterator[tuple[str, int, int]]:
    """Name, partitions and retention (ms) of every topic, parking included, with the deployment's prefix."""
    for topic in TOPICS:
        yield settings.topic_prefix + topic.name, topic.partitions, topic.retention_ms
    for _, _, name in parking_topics():
        yield settings.topic_prefix + name, PARKING_PARTITIONS, PARKING_RETENTION_MS


async def check_topics(settings: KafkaSettings) -> list[TopicState]:
    """How each topic stands on the broker."""
    async with _Admin(settings) as admin:
        existing = set(await admin.list_topics())
        names = [name for name, _, _ in wanted(settings) if name in existing]
        described = await admin.describe_topics(names) if names else []
        counts = {row["topic"]: len(row["partitions"]) for row in described}
        copies = {row["topic"]: min((len(p["replicas"]) for p in row["partitions"]), default=0) for row in described}
    return [
        TopicState(name, partitions, retention, counts.get(name), copies.get(name))
        for name, partitions, retention in wanted(settings)
    ]


async def cluster(settings: KafkaSettings) -> int:
    """How many brokers there are."""
    async with _Admin(settings) as admin:
        return len((await admin.describe_cluster())["brokers"])


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
                        # What was consumed under the broker's usual limit is parked with its context on top.
                        **({"max.message.bytes": str(LARGEST_RECORD)} if is_parking(state.name) else {}),
                    },
                )
                for state in missing
            ]
        )
    for name, code, *_ in answer.topic_errors:
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:
            raise Transient(f"topic {name} could not be made: {error.__name__}")
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
