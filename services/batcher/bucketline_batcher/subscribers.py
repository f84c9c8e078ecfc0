"""What the batcher consumes and publishes: mirrored objects become work units, and their ends complete batches."""

from typing import Annotated

from faststream import AckPolicy

from bucketline.domain.status import RANK_FINAL
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
from bucketline_batcher.cancel import Cancellation
from bucketline_batcher.planner import FIELDS, Planner
from bucketline_batcher.results import BatchProgressTracker
from bucketline_batcher.windows import WindowBatcher

router = event_router()
publishes(router, WorkUnitReady, ObjectStatusChanged, BatchSubmitted, BatchCompleted)


@router.subscriber(MIRRORED.name, group_id=MIRRORED.group("batcher"), batch=True, ack_policy=AckPolicy.MANUAL)
async def plan_mirrored_objects(
    records: Events[ObjectMirrored],
    planner: Annotated[Planner, Provided()],
    windowing: Annotated[WindowBatcher, Provided()],
) -> None:
    """Plan objects to process at once and those that submitted batches wait for; other drafts go into windows."""
    traces = {record.event.object_id: record.trace for record in records}
    objects = await planner.objects.get_many(list(traces), fields=FIELDS)
    mirrored = {object_id: found for object_id, found in objects.items() if found["mirror"]["state"] != "pending"}
    await planner.plan_auto(list(mirrored.values()), traces)
    planned = await planner.plan_ready_objects(mirrored, traces)
    # These may belong to a batch already: its event may not be applied to them yet. The window checks that.
    await windowing.add_drafts([found for object_id, found in mirrored.items() if object_id not in planned])


@router.subscriber(BATCHES.name, group_id=BATCHES.group("batcher"), batch=True, ack_policy=AckPolicy.MANUAL)
async def plan_submitted_batches(
    records: Events[BatchSubmitted | BatchCanceled],
    planner: Annotated[Planner, Provided()],
    canceling: Annotated[Cancellation, Provided()],
    progress: Annotated[BatchProgressTracker, Provided()],
) -> None:
    """Cancel batches, and plan submitted ones, small ones first because a large one takes a while.

    Both act on the stored state of the batch, so the order of the two events does not matter.
    """
    for record in records:
        if isinstance(record.event, BatchCanceled):
            await canceling.cancel(record.event.batch_id)
    submitted = [(record.event, record.trace) for record in records if isinstance(record.event, BatchSubmitted)]
    for event, trace in sorted(submitted, key=lambda row: row[0].object_count):
        await planner.plan_batch(event.batch_id, trace)
        # Its units may have ended by now, and there are none if all of its objects were deleted.
        await progress.update(event.batch_id)


@router.subscriber(STATUS.name, group_id=STATUS.group("batcher"), batch=True, ack_policy=AckPolicy.MANUAL)
async def count_progress(
    records: Events[ObjectStatusChanged], progress: Annotated[BatchProgressTracker, Provided()]
) -> None:
    """Count the objects that have ended, and complete their batches. Other statuses are no progress."""
    if ended := [record for record in records if record.event.sequence == RANK_FINAL]:
        await progress.apply_results(ended)
