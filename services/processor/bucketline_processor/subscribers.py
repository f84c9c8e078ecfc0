"""What the processor consumes and publishes: it schedules work units; the work itself goes on after the commit."""

from typing import Annotated

from faststream import AckPolicy

from bucketline.events.cloudevents import Events
from bucketline.events.models import ObjectStatusChanged, WorkUnitReady
from bucketline.events.topics import WORK
from bucketline.kafka.broker import Provided, event_router, publishes
from bucketline_processor.unit_scheduler import UnitScheduler

router = event_router()
publishes(router, ObjectStatusChanged)


@router.subscriber(WORK.name, group_id=WORK.group("processor"), batch=True, ack_policy=AckPolicy.MANUAL)
async def schedule_units(records: Events[WorkUnitReady], works: Annotated[UnitScheduler, Provided()]) -> None:
    """Return when every unit is scheduled in this process, or leased by another."""
    await works.offer({record.event.unit_id: dict(record.trace) for record in records})
