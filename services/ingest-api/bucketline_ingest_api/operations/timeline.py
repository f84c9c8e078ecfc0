"""The timeline of an object, from what the services have stored: it is complete whether or not events were lost."""

from datetime import datetime

from bucketline.db.batches import BatchDocument
from bucketline.db.objects import ObjectDocument
from bucketline.db.work_units import WorkUnitDocument, items_filter
from bucketline.domain.status import FINAL
from bucketline.errors import NotFound
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.operations.schemas import ObjectTimeline, TimelineStep

FIELDS = (
    "namespace_id",
    "status",
    "error",
    "created_at",
    "updated_at",
    "moved_at",
    "mirror",
    "batch_id",
    "run",
    "trace",
)


async def get_timeline(container: Container, namespace_id: str, object_id: str) -> ObjectTimeline:
    """Return the steps of the object's latest run; :class:`NotFound` unless the object is in the namespace."""
    obj = await container.objects.get_by_id(object_id, fields=FIELDS)
    if obj is None or obj["namespace_id"] != namespace_id:
        raise NotFound.of("object", object_id)
    batch_id = obj.get("batch_id")
    batch = await container.batches.get(batch_id, fields=["auto", "submitted_at", "completed_at"]) if batch_id else None
    unit, index = await _find_unit(container, batch_id, object_id) if batch_id else (None, 0)
    steps = [TimelineStep(name="accepted", at=obj["created_at"]), *_mirror_steps(obj), *_batch_steps(obj, batch)]
    if unit is not None:
        steps += _unit_steps(unit, index)
    if not any(step.name == "finished" for step in steps) and obj["status"] in FINAL:
        steps.append(TimelineStep(name="finished", at=obj.get("moved_at"), status=obj["status"], error=obj["error"]))
    unknown = obj["updated_at"].replace(year=9999)
    steps.sort(key=lambda step: step.at or unknown)  # what is still going on comes last
    trace = obj.get("trace", {}).get("traceparent", "").split("-")
    return ObjectTimeline(
        object_id=object_id,
        status=obj["status"],
        batch_id=batch_id,
        trace_id=trace[1] if len(trace) == 4 else None,
        steps=steps,
    )


def _mirror_steps(obj: ObjectDocument) -> list[TimelineStep]:
    mirror = obj["mirror"]
    name, at = ("mirroring", None) if mirror["state"] == "pending" else ("mirrored", mirror.get("at"))
    if at is None and name == "mirrored":
        return []
    waiting: datetime | None = mirror.get("due_at") if at is None else None
    return [
        TimelineStep(
            name=name,
            at=at,
            status="FAILED" if mirror["state"] == "failed" else None,
            attempts=mirror["attempts"] + (at is not None),
            error=mirror.get("error"),
            next_attempt_at=waiting,
        )
    ]


def _batch_steps(obj: ObjectDocument, batch: BatchDocument | None) -> list[TimelineStep]:
    submitted = batch.get("submitted_at") if batch and not batch.get("auto") else None
    # A canceled run returns the object to the draft status: it still shows the batch, which is over.
    return [TimelineStep(name="submitted", at=submitted)] if submitted and obj["run"]["id"] else []


def _unit_steps(unit: WorkUnitDocument, index: int) -> list[TimelineStep]:
    steps = [TimelineStep(name="batched", at=unit["created_at"])]
    result = unit["results"].get(str(index))
    if result is not None:
        at = result.get("at") or unit.get("finished_at")
        steps.append(
            TimelineStep(
                name="finished",
                at=at,
                status=result["status"],
                attempts=unit["attempts"],
                error=result["error"],
                documents=result["documents"],
            )
        )
    elif unit["state"] == "leased":
        steps.append(TimelineStep(name="processing", at=unit["moved_at"], attempts=unit["attempts"]))
    return steps


async def _find_unit(container: Container, batch_id: str, object_id: str) -> tuple[WorkUnitDocument | None, int]:
    """Return the unit of the object's latest run in the batch, and the index of its item."""
    units = await container.units.search(items_filter([batch_id], [object_id]), limit=10, sort=[("created_at", -1)])
    for unit in units:
        for index, item in enumerate(unit["items"]):
            if item["object_id"] == object_id and item["batch_id"] == batch_id:
                return unit, index
    return None, 0
