"""What the processor consumes and publishes: it schedules work units; the work itself goes on after the commit."""

from typing import Annotated

from faststream import AckPolicy

from bucketline.events.catalog import ObjectStatusChanged, WorkReady
from bucketline.events.envelope import Events
from bucketline.events.topics import WORK
from bucketline.messaging.broker import Provided, event_router, publishes
from processor.works import Works

router = event_router()
publishes(router, ObjectStatusChanged)


@router.subscriber(WORK.name, group_id=WORK.group("processor"), batch=True, ack_policy=AckPolicy.MANUAL)
async def schedule_units(records: Events[WorkReady], works: Annotated[Works, Provided()]) -> None:
    """Return when every unit is scheduled in this process, or leased by another."""
    await works.offer({record.event.unit_id: dict(record.trace) for record in records})
