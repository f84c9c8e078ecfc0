"""What dedup consumes and publishes: it mirrors the blobs of created and changed objects."""

from typing import Annotated

from faststream import AckPolicy

from bucketline.events.cloudevents import REPLAY, Events
from bucketline.events.models import ObjectCreated, ObjectMirrored, ObjectStatusChanged, ObjectUpdated
from bucketline.events.topics import OBJECTS
from bucketline.kafka.broker import Provided, event_router, publishes
from bucketline_dedup.outcomes import OTHERS_FIELDS
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
    wanted = [
        (record.event.object_id, record)
        for record in records
        if isinstance(event := record.event, ObjectCreated) or event.blobs_changed or event.auto_process
    ]
    traces = {object_id: record.trace for object_id, record in wanted}
    objects = await mirroring.objects.many(list(traces), without=OTHERS_FIELDS)
    replayed = {
        object_id: record.id
        for object_id, record in wanted
        if object_id in objects and objects[object_id]["mirror"].get("dead_letter_event_id") == record.id
    }
    if replayed:
        await mirroring.redrive([objects.pop(object_id) for object_id in replayed], replayed)
    fresh = {object_id for object_id, record in wanted if record.source != REPLAY}
    # An object that is settled has been announced before, and the event replay announces it itself.
    announced = {o for o, obj in objects.items() if o not in fresh and obj["mirror"]["state"] != "pending"}
    await mirroring.mirror([obj for o, obj in objects.items() if o not in announced], traces)
