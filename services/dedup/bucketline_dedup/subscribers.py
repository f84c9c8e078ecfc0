"""Subscribers of the dedup service: they mirror the blobs of created and changed objects."""

from typing import Annotated

from faststream import AckPolicy

from bucketline.events.cloudevents import REPLAY, Events
from bucketline.events.models import ObjectCreated, ObjectMirrored, ObjectStatusChanged, ObjectUpdated
from bucketline.events.topics import OBJECTS
from bucketline.kafka.broker import Provided, event_router, publishes
from bucketline_dedup.service import MirrorService

router = event_router()
publishes(router, ObjectMirrored, ObjectStatusChanged)


@router.subscriber(OBJECTS.name, group_id=OBJECTS.group("dedup"), batch=True, ack_policy=AckPolicy.MANUAL)
async def mirror_objects(
    records: Events[ObjectCreated | ObjectUpdated], mirroring: Annotated[MirrorService, Provided()]
) -> None:
    """Mirror the blobs of objects that were created or changed, and retry those whose event was dead-lettered.

    Blobs of deleted objects are left to garbage collection.
    """
    relevant = [
        (record.event.object_id, record)
        for record in records
        if isinstance(event := record.event, ObjectCreated) or event.blobs_changed or event.auto_process
    ]
    traces = {object_id: record.trace for object_id, record in relevant}
    objects = await mirroring.load(list(traces))
    replayed = {
        object_id: record.id
        for object_id, record in relevant
        if object_id in objects and objects[object_id]["mirror"].get("dead_letter_event_id") == record.id
    }
    if replayed:
        await mirroring.retry_dead_lettered({object_id: objects.pop(object_id) for object_id in replayed}, replayed)
    # An object that has finished is only published again for a redelivery; the event replay publishes its own events.
    fresh = {object_id for object_id, record in relevant if record.source != REPLAY}
    await mirroring.mirror(
        [obj for object_id, obj in objects.items() if object_id in fresh or obj["mirror"]["state"] == "pending"], traces
    )
