"""What the ingest API consumes and publishes: it owns objects, and applies the status changes of other services."""

from typing import Annotated

from faststream import AckPolicy

from bucketline.domain.status import RANK_FINAL
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
from bucketline.events.topics import STATUS
from bucketline.kafka.broker import Provided, event_router, publishes
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.metrics import record_status_metrics

router = event_router()
publishes(router, ObjectCreated, ObjectUpdated, ObjectDeleted, BatchSubmitted, BatchCanceled, BatchCompleted)

_MEASURED = ("run", "status", "created_at", "moved_at")


@router.subscriber(STATUS.name, group_id=STATUS.group("ingest-api"), batch=True, ack_policy=AckPolicy.MANUAL)
async def apply_statuses(records: Events[ObjectStatusChanged], deps: Annotated[Container, Provided()]) -> None:
    """Move objects forward by compare-and-set: duplicates and late events change nothing.

    Documents that were written while their object was being deleted are removed as well, also those of a processor that
    died before it could count them.
    """
    events = [record.event for record in records]
    known = await deps.objects.many(list({event.object_id for event in events}), fields=_MEASURED)
    await deps.objects.apply_statuses([event for event in events if event.object_id in known])
    ended = {event.object_id for event in events if event.sequence == RANK_FINAL}
    if orphaned := sorted(ended - known.keys()):
        await deps.documents.collection.delete_many({"object_id": {"$in": orphaned}})
    record_status_metrics(events, known)
