"""The topics that the batcher consumes and the events that it publishes."""

from typing import Annotated

from faststream import AckPolicy

from bucketline.events.cloudevents import Events
from bucketline.events.models import (
    BatchCanceled,
    BatchCompleted,
    BatchSubmitted,
    ObjectMirrored,
    ObjectStatusChanged,
    WorkUnitReady,
)
from bucketline.events.topics import BATCHES, MIRRORED, STATUS
from bucketline.kafka.broker import Provided, event_router, publishes
from bucketline_batcher.service import BatcherService

router = event_router()
publishes(router, WorkUnitReady, ObjectStatusChanged, BatchSubmitted, BatchCompleted)


@router.subscriber(MIRRORED.name, group_id=MIRRORED.group("batcher"), batch=True, ack_policy=AckPolicy.MANUAL)
async def plan_mirrored_objects(
    records: Events[ObjectMirrored], service: Annotated[BatcherService, Provided()]
) -> None:
    """Plan objects to process at once and those that submitted batches wait for; other drafts go into windows."""
    await service.plan_mirrored(records)


@router.subscriber(BATCHES.name, group_id=BATCHES.group("batcher"), batch=True, ack_policy=AckPolicy.MANUAL)
async def plan_submitted_batches(
    records: Events[BatchSubmitted | BatchCanceled], service: Annotated[BatcherService, Provided()]
) -> None:
    """Cancel batches, and plan submitted ones, small ones first because a large one takes a while.

    Both act on the stored state of the batch, so the order of the two events does not matter.
    """
    await service.plan_or_cancel(records)


@router.subscriber(STATUS.name, group_id=STATUS.group("batcher"), batch=True, ack_policy=AckPolicy.MANUAL)
async def count_progress(records: Events[ObjectStatusChanged], service: Annotated[BatcherService, Provided()]) -> None:
    """Count the objects that have ended, and complete their batches. Other statuses are no progress."""
    await service.apply_results(records)
