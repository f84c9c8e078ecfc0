"""Kafka subscribers of the processor: they only schedule work units, which are processed after the commit."""

from typing import Annotated

from faststream import AckPolicy

from bucketline.events.cloudevents import Events
from bucketline.events.models import ObjectStatusChanged, WorkUnitReady
from bucketline.events.topics import WORK
from bucketline.kafka.broker import Provided, event_router, publishes
from bucketline_processor.scheduler import UnitScheduler

router = event_router()
publishes(router, ObjectStatusChanged)


@router.subscriber(WORK.name, group_id=WORK.group("processor"), batch=True, ack_policy=AckPolicy.MANUAL)
async def schedule_units(records: Events[WorkUnitReady], scheduler: Annotated[UnitScheduler, Provided()]) -> None:
    """Return when every unit is queued in this process, or leased by another."""
    await scheduler.submit({record.event.unit_id: dict(record.trace) for record in records})
