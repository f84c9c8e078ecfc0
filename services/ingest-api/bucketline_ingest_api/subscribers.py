"""Kafka subscribers of the ingest API: they apply status changes to objects and notify subscribers."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, NamedTuple

from faststream import AckPolicy

from bucketline.db.objects import ObjectDocument
from bucketline.domain.status import FINAL, RANK_FINAL, Status, supersedes
from bucketline.events.cloudevents import Events
from bucketline.events.models import (
    BatchCanceled,
    BatchCompleted,
    BatchSubmitted,
    ObjectCreated,
    ObjectDeleted,
    ObjectStatusChanged,
    ObjectUpdated,
)
from bucketline.events.topics import BATCHES, STATUS
from bucketline.kafka.broker import Provided, event_router, publishes
from bucketline.observability.metrics import END_TO_END_SECONDS, STAGE_SECONDS, STATUS_CHANGES
from bucketline_ingest_api.container import Container

router = event_router()
publishes(router, ObjectCreated, ObjectUpdated, ObjectDeleted, BatchSubmitted, BatchCanceled, BatchCompleted)

_FIELDS = ("run", "status", "created_at", "moved_at")


@router.subscriber(STATUS.name, group_id=STATUS.group("ingest-api"), batch=True, ack_policy=AckPolicy.MANUAL)
async def apply_statuses(records: Events[ObjectStatusChanged], container: Annotated[Container, Provided()]) -> None:
    """Move objects forward by compare-and-set: duplicates and late events change nothing.

    Documents of objects that no longer exist are deleted: they were written while their object was being deleted.
    """
    events = [record.event for record in records]
    objects = await container.objects.get_many(list({event.object_id for event in events}), fields=_FIELDS)
    await container.objects.apply_statuses([event for event in events if event.object_id in objects])
    final = {event.object_id for event in events if event.sequence == RANK_FINAL}
    if orphaned := sorted(final - objects.keys()):
        await container.documents.delete_of_objects(orphaned)
    record_status_metrics(events, objects)
    await container.notifier.notify(records)


@router.subscriber(BATCHES.name, group_id=BATCHES.group("ingest-api"), batch=True, ack_policy=AckPolicy.MANUAL)
async def notify_of_batches(records: Events[BatchCompleted], container: Annotated[Container, Provided()]) -> None:
    """Publish completed batches to the feed and to webhooks."""
    await container.notifier.notify(records)


class _State(NamedTuple):
    """The status of an object, its position in the order of all its statuses, and its time."""

    position: tuple[int, int]
    status: str
    since: datetime | None


def record_status_metrics(events: Sequence[ObjectStatusChanged], objects: Mapping[str, ObjectDocument]) -> None:
    """Count the status changes that were applied and observe their durations.

    ``objects`` are the objects as read before the events were applied. Several events of one object in a micro-batch
    are each measured from the one before it.
    """
    states: dict[str, _State] = {}
    for event in events:
        obj = objects.get(event.object_id)
        if obj is None:
            continue
        run = obj["run"]
        before = states.get(event.object_id) or _State((run["id"], run["rank"]), obj["status"], obj.get("moved_at"))
        position = event.run_id, event.sequence
        if not supersedes(position, before.position):
            continue
        states[event.object_id] = _State(position, event.status, event.occurred_at)
        STATUS_CHANGES.labels(str(event.status)).inc()
        if before.status != Status.DRAFT and before.since is not None:
            seconds = (event.occurred_at - before.since).total_seconds()
            STAGE_SECONDS.labels(before.status.lower()).observe(max(0.0, seconds))
        if event.run_id == 1 and event.status in FINAL:
            seconds = (event.occurred_at - obj["created_at"]).total_seconds()
            END_TO_END_SECONDS.labels(str(event.status)).observe(max(0.0, seconds))
