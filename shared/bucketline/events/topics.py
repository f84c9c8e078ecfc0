"""THE table of topics. Manifests, checks, documentation and code all read this one."""

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

    def group(self, service: ServiceName) -> str:
        """The consumer group in which this service reads the topic, without the deployment's prefix.

        A group of its own a topic: a rebalance of one does not stop the others.
        """
        return f"{service}.{self.name}"

    def parking(self, service: ServiceName) -> str:
        """The topic in which this consumer parks what it cannot handle."""
        return parking_topic(self.name, service)


_PARKED = ".parked."


def parking_topic(topic: str, service: str) -> str:
    """Where a consumer parks what it cannot handle of ``topic``; with the deployment's prefix if that has it."""
    return f"{topic}{_PARKED}{service}"


def parked_from(parking: str) -> str:
    """The topic whose records are parked in ``parking``."""
    return parking.partition(_PARKED)[0]


def is_parking(topic: str) -> bool:
    return _PARKED in topic


OBJECTS = Topic(
    name="objects.v1",
    events=(ObjectCreated, ObjectUpdated, ObjectDeleted),
    key="object_id",
    partitions=12,
    retention_ms=7 * DAY_MS,
    producers=("ingest-api",),
    consumers=("dedup",),
    description="The life of an object as its producer sees it.",
)
MIRRORED = Topic(
    name="objects.mirrored.v1",
    events=(ObjectMirrored,),
    key="object_id",
    partitions=12,
    retention_ms=7 * DAY_MS,
    producers=("dedup",),
    consumers=("batcher",),
    description="Objects whose blobs have all been dealt with.",
)
BATCHES = Topic(
    name="batches.v1",
    events=(BatchSubmitted, BatchCanceled, BatchCompleted),
    key="batch_id",
    partitions=6,
    retention_ms=7 * DAY_MS,
    producers=("ingest-api", "batcher"),
    consumers=("batcher",),
    description="The life of a batch.",
)
WORK = Topic(
    name="batches.work.v1",
    events=(WorkUnitReady,),
    key="unit_id",
    partitions=24,
    retention_ms=DAY_MS,
    producers=("batcher",),
    consumers=("processor",),
    description="Work units, spread over all processors.",
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
PARKING_RETENTION_MS = 30 * DAY_MS
PARKING_PARTITIONS = 1


def topic_of(event: type[Event]) -> Topic:
    """The topic that carries this event."""
    return _BY_EVENT[event]


def consumed_by(service: ServiceName) -> tuple[Topic, ...]:
    return tuple(topic for topic in TOPICS if service in topic.consumers)


def parking_topics() -> Iterator[tuple[Topic, ServiceName, str]]:
    """Every parking topic: the topic it belongs to, the consumer that fills it, its name."""
    for topic in TOPICS:
        for service in topic.consumers:
            yield topic, service, topic.parking(service)


_BY_EVENT: dict[type[Event], Topic] = {event: topic for topic in TOPICS for event in topic.events}
