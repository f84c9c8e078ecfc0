"""What dedup does with records: decode, call one use case, return."""

from collections.abc import Sequence

from bucketline.events.cloudevents import REPLAY, ReceivedEvent
from bucketline.events.models import ObjectCreated, ObjectUpdated
from bucketline_dedup.outcomes import OTHERS_FIELDS
from bucketline_dedup.service import MirrorService


class Handlers:
    """Handlers of this service; each may see any record again."""

    def __init__(self, mirroring: MirrorService) -> None:
        self._mirroring = mirroring

    async def on_objects(self, records: Sequence[ReceivedEvent]) -> None:
        """Mirrors what was created or changed, and starts over with what was parked. What was deleted is left to gc."""
        wanted = [
            (event.object_id, record)
            for record in records
            if isinstance(event := record.event, ObjectCreated)
            or (isinstance(event, ObjectUpdated) and (event.blobs_changed or event.auto_process))
        ]
        traces = {object_id: record.trace for object_id, record in wanted}
        objects = await self._mirroring.objects.many(list(traces), without=OTHERS_FIELDS)
        replayed = {
            object_id: record.id
            for object_id, record in wanted
            if object_id in objects and objects[object_id]["mirror"].get("parked") == record.id
        }
        if replayed:
            await self._mirroring.redrive([objects.pop(object_id) for object_id in replayed], replayed)
        fresh = {object_id for object_id, record in wanted if record.source != REPLAY}
        # What is settled has been announced, and the replay tells of that itself.
        told_again = {o for o, obj in objects.items() if o not in fresh and obj["mirror"]["state"] != "pending"}
        await self._mirroring.mirror([obj for o, obj in objects.items() if o not in told_again], traces)
