"""The topics. Manifests, checks, documentation and code are all derived from this table."""

from collections.abc import Iterator
from dataclasses import dataclass

from bucketline.events.models import (
    BatchCanceled,
    BatchCompleted,
    BatchSubmitted,
    Event,
    ObjectCreated,
    ObjectDeleted,
    ObjectMirrored,
    ObjectStatusChanged,
    ObjectUpdated,
    WorkUnitReady,
)
from bucketline.settings import ServiceName

DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True)
class Topic:
    """One topic, named without the deployment's prefix.

    ``producers`` publish to it and ``consumers`` read it, each service as one consumer group.
    """

    name: str
    events: tuple[type[Event], ...]
    key: str
    partitions: int
    retention_ms: int
    producers: tuple[ServiceName, ...]
    consumers: tuple[ServiceName, ...]
    description: str
    public: bool = True
    """Whether other services may subscribe to it."""

    def group(self, service: ServiceName) -> str:
        """Return the consumer group in which this service reads the topic, without the deployment's prefix.

        Each topic has its own group, so that a rebalance of one does not stop the others.
        """
        return f"{service}.{self.name}"

    def dead_letter_topic(self, service: ServiceName) -> str:
        """Return the topic for the dead letters of this consumer."""
        return dead_letter_topic(self.name, service)


_DEAD_LETTER_SUFFIX = ".dlq"


def dead_letter_topic(topic: str, service: str) -> str:
    """Return the dead-letter topic of a consumer of ``topic``, with the deployment's prefix if ``topic`` has it."""
    return f"{topic}.{service}{_DEAD_LETTER_SUFFIX}"


def original_topic(dead_letters: str) -> str:
    """Return the topic whose records are in the dead-letter topic ``dead_letters``."""
    return dead_letters.removesuffix(_DEAD_LETTER_SUFFIX).rpartition(".")[0]


def is_dead_letter_topic(topic: str) -> bool:
    """Return whether the topic holds dead letters."""
    return topic.endswith(_DEAD_LETTER_SUFFIX)


OBJECTS = Topic(
    name="objects.v1",
    events=(ObjectCreated, ObjectUpdated, ObjectDeleted),
    key="object_id",
    partitions=12,
    retention_ms=7 * DAY_MS,
    producers=("ingest-api",),
    consumers=("dedup",),
    description="Lifecycle of objects.",
)
MIRRORED = Topic(
    name="objects.mirrored.v1",
    events=(ObjectMirrored,),
    key="object_id",
    partitions=12,
    retention_ms=7 * DAY_MS,
    producers=("dedup",),
    consumers=("batcher",),
    description="Objects whose blobs have been mirrored.",
)
BATCHES = Topic(
    name="batches.v1",
    events=(BatchSubmitted, BatchCanceled, BatchCompleted),
    key="batch_id",
    partitions=6,
    retention_ms=7 * DAY_MS,
    producers=("ingest-api", "batcher"),
    consumers=("ingest-api", "batcher"),
    description="Lifecycle of batches.",
)
WORK = Topic(
    name="batches.work.v1",
    events=(WorkUnitReady,),
    key="unit_id",
    partitions=24,
    retention_ms=DAY_MS,
    producers=("batcher",),
    consumers=("processor",),
    description="Work units that are ready for a processor.",
    public=False,
)
STATUS = Topic(
    name="objects.status.v1",
    events=(ObjectStatusChanged,),
    key="object_id",
    partitions=12,
    retention_ms=7 * DAY_MS,
    producers=("dedup", "batcher", "processor"),
    consumers=("ingest-api", "batcher"),
    description="Status changes of objects.",
)

TOPICS: tuple[Topic, ...] = (OBJECTS, MIRRORED, BATCHES, WORK, STATUS)
DEAD_LETTER_RETENTION_MS = 30 * DAY_MS
DEAD_LETTER_PARTITIONS = 1


def topic_of(event: type[Event]) -> Topic:
    """Return the topic that carries this event."""
    return _BY_EVENT[event]


def consumed_by(service: ServiceName) -> tuple[Topic, ...]:
    """Return the topics that the service consumes."""
    return tuple(topic for topic in TOPICS if service in topic.consumers)


def dead_letter_topics() -> Iterator[tuple[Topic, ServiceName, str]]:
    """Yield every dead-letter topic: the topic it belongs to, the service that writes it, its name."""
    for topic in TOPICS:
        for service in topic.consumers:
            yield topic, service, topic.dead_letter_topic(service)


_BY_EVENT: dict[type[Event], Topic] = {event: topic for topic in TOPICS for event in topic.events}
