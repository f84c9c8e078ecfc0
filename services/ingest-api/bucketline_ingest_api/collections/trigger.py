"""Run a collection on the existing objects of its sources, by batches that are created and submitted.

Up to 50,000 objects of one bucket become one batch, before the response is sent. More are left to a durable task that
creates as many batches as needed. The ids of its batches are derived from the task, so creating one again changes
nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from bucketline.db.batches import BatchDocument
from bucketline.db.buckets import BucketDocument
from bucketline.db.collections import CollectionDocument
from bucketline.db.mongo import query_timeout
from bucketline.db.objects import ObjectDocument
from bucketline.db.tasks import TaskDocument
from bucketline.domain.collection_graph import bucket_ids_of
from bucketline.domain.moments import Moments
from bucketline.domain.status import Status
from bucketline.errors import BadRequest, NotFound
from bucketline.ids import derived
from bucketline_ingest_api.batches.schemas import MAX_OBJECTS, DedupStrategy
from bucketline_ingest_api.batches.service import OLDEST_FIRST, new_draft, objects_after
from bucketline_ingest_api.batches.submission import submit_batch
from bucketline_ingest_api.collections.output_schema import merge_schemas
from bucketline_ingest_api.collections.schemas import TriggerCollection, Triggered
from bucketline_ingest_api.collections.service import find_collection
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.service import LIST_SPEC as OBJECTS
from bucketline_ingest_api.pagination import Selection, search_timeout, select_rows
from bucketline_ingest_api.tasks.runner import Reschedule, TaskOutcome, TaskResult

TASK_TYPE = "api_collections_trigger"
MAX_EXECUTION_TIME = timedelta(seconds=15)
TASK_SEARCH_SECONDS = 120.0
"""Time limit for finding the objects of one batch in the task, where no client waits for the response."""

NEWEST_FIRST = (("created_at", -1), ("_id", -1))


@dataclass(frozen=True)
class TriggerPlan:
    """The objects to run. ``downstream`` are the ids of the collection and of all that read it."""

    collection: CollectionDocument
    bucket_ids: list[str]
    downstream: list[str]
    tier_count: int
    selected: Selection

    def response(self, **fields: Any) -> Triggered:
        """Return the response with what is known before any batch is created."""
        return Triggered(
            collection_id=self.collection["_id"],
            source_bucket_ids=self.bucket_ids,
            source_collection_ids=self.collection["source"]["collection_ids"] or None,
            total_tiers=self.tier_count,
            **fields,
        )


async def trigger_collection(
    container: Container, organization_id: str, namespace_id: str, identifier: str, body: TriggerCollection
) -> Triggered:
    """Submit the objects. Raises :class:`BadRequest` when there are none or the collection is disabled."""
    collection = await find_collection(container, namespace_id, identifier)
    if not collection["enabled"]:
        raise BadRequest("the collection is disabled", code="collection_disabled")
    plan = await _plan(container, collection, body)
    with search_timeout():
        count = await container.objects.count_matching(
            {"bucket_id": {"$in": plan.bucket_ids}, **plan.selected.where},
            limit=MAX_OBJECTS + 1,
            computed=plan.selected.computed,
        )
    if count == 0:
        raise BadRequest("there are no objects to process", code="nothing_to_process")
    if count > MAX_OBJECTS or len(plan.bucket_ids) > 1:
        return await _start_task(container, organization_id, plan, body)
    [bucket_id] = plan.bucket_ids
    with search_timeout():
        objects = await container.objects.search(
            {"bucket_id": bucket_id, **plan.selected.where},
            limit=MAX_OBJECTS,
            sort=OLDEST_FIRST,
            fields=["_id"],
            computed=plan.selected.computed,
        )
    ids = [obj["_id"] for obj in objects]
    batch = await _submit(container, plan, container.ids.new("btch"), bucket_id, ids, body.dedup_strategy)
    return plan.response(
        task_id=batch["task_id"],
        batch_id=batch["_id"],
        object_count=len(ids),
        message=f"{len(ids)} objects were submitted",
    )


async def execute_trigger(container: Container, task: TaskDocument) -> TaskOutcome:
    """Create and submit batches until the time of one execution is used up. The task keeps the cursor."""
    data: Mapping[str, Any] = task["data"]
    collection = await container.collections.get_by_id(task["inputs"][0])
    if collection is None or collection.get("deleting"):
        return TaskResult(status=Status.CANCELED, error="the collection was deleted")
    body = TriggerCollection.model_validate_json(data["request"])
    plan = await _plan(container, collection, body)
    bucket_ids: list[str] = data["bucket_ids"]
    batch_ids: list[str] = list(data.get("batch_ids", ()))
    bucket_index, after, object_count = data.get("bucket_index", 0), data.get("after"), data.get("object_count", 0)
    deadline = container.clock.now() + MAX_EXECUTION_TIME
    while bucket_index < len(bucket_ids):
        if container.clock.now() >= deadline:
            return Reschedule(container.clock.now(), _cursor(bucket_index, after, batch_ids, object_count))
        batch_id = derived("btch", task["_id"], len(batch_ids))
        objects: list[ObjectDocument] = []
        with query_timeout(TASK_SEARCH_SECONDS):
            # An execution that was cut off may have created the batch. Other objects may match by now, but those of
            # the batch must not be lost.
            batch = await container.batches.get(batch_id)
            if batch is None:
                objects = await container.objects.search(
                    _objects_after(bucket_ids[bucket_index], plan.selected.where, after, task["created_at"]),
                    limit=MAX_OBJECTS,
                    sort=OLDEST_FIRST,
                    fields=["created_at"],
                    computed=plan.selected.computed,
                )
        if batch is not None:
            bucket_id, object_ids = batch["bucket_id"], batch["objects"]
        elif objects:
            bucket_id, object_ids = bucket_ids[bucket_index], [obj["_id"] for obj in objects]
        else:
            bucket_index, after = bucket_index + 1, None
            continue
        batch = await _submit(container, plan, batch_id, bucket_id, object_ids, body.dedup_strategy)
        if batch["bucket_id"] != bucket_ids[bucket_index]:
            bucket_index, after = bucket_ids.index(batch["bucket_id"]), None
        batch_ids.append(batch_id)
        object_count += batch["total"]
        after = await _last_of(container, batch, objects) or after
        await container.tasks.save_progress(task["_id"], _cursor(bucket_index, after, batch_ids, object_count))
        if batch["total"] < MAX_OBJECTS:
            bucket_index, after = bucket_index + 1, None
    return TaskResult(outputs=batch_ids, data={"batch_ids": batch_ids, "object_count": object_count})


def _cursor(bucket_index: int, after: object, batch_ids: list[str], object_count: int) -> dict[str, object]:
    return {"bucket_index": bucket_index, "after": after, "batch_ids": batch_ids, "object_count": object_count}


async def _plan(container: Container, collection: CollectionDocument, body: TriggerCollection) -> TriggerPlan:
    buckets = await _source_buckets(container, collection, body.include_collections)
    bucket_ids = [bucket["_id"] for bucket in buckets]
    if body.include_buckets is not None:
        included = set()
        for identifier in body.include_buckets:
            bucket = await container.bucket(collection["namespace_id"], identifier)
            if bucket is None or bucket["_id"] not in bucket_ids:
                raise NotFound.of("bucket", identifier)
            included.add(bucket["_id"])
        bucket_ids = [bucket_id for bucket_id in bucket_ids if bucket_id in included]
    scope: Mapping[str, object] = {} if body.object_ids is None else {"_id": {"$in": body.object_ids}}
    spec = replace(OBJECTS, moments=Moments(merge_schemas([bucket["schema"] for bucket in buckets])))
    selected = select_rows(scope, spec, body.source_filters, location=("body", "source_filters"))
    tiers = await container.collections.downstream([collection])
    return TriggerPlan(collection, bucket_ids, [row["_id"] for tier in tiers for row in tier], len(tiers), selected)


async def _source_buckets(
    container: Container, collection: CollectionDocument, include: Sequence[str] | None
) -> list[BucketDocument]:
    """Return the buckets whose objects reach the collection, directly or through the included collections."""
    if include is None:
        tiers = await container.collections.upstream([collection])
    else:
        included = [await find_collection(container, collection["namespace_id"], identifier) for identifier in include]
        source_ids = collection["source"]["collection_ids"]
        sources = [source for source in included if source["_id"] in source_ids]
        tiers = [[collection], *await container.collections.upstream(sources)]
    bucket_ids = bucket_ids_of(tiers)
    buckets = await container.buckets.get_many(bucket_ids, fields=["schema", "deleting"])
    return [buckets[key] for key in bucket_ids if key in buckets and not buckets[key].get("deleting")]


async def _submit(
    container: Container,
    plan: TriggerPlan,
    batch_id: str,
    bucket_id: str,
    object_ids: list[str],
    strategy: DedupStrategy,
) -> BatchDocument:
    """Create and submit the batch, unless an earlier execution has."""
    draft = new_draft(
        plan.collection["namespace_id"],
        bucket_id,
        object_ids,
        batch_id=batch_id,
        now=container.clock.now(),
        collection_ids=plan.downstream,
        strategy=strategy,
        metadata={"triggered_by": plan.collection["_id"]},
    )
    await container.batches.insert([draft])
    batch = await container.batches.get(batch_id) or draft
    if batch["status"] != Status.DRAFT:
        return batch
    return await submit_batch(container, batch)


async def _last_of(
    container: Container, batch: BatchDocument, objects: Sequence[ObjectDocument]
) -> list[object] | None:
    """Return the position of the last object of the batch that still exists, if any does.

    ``objects`` are those that the batch was created from; empty if an earlier execution created it.
    """
    if objects and objects[-1]["_id"] == batch["objects"][-1]:
        return [objects[-1]["created_at"], objects[-1]["_id"]]
    with query_timeout(TASK_SEARCH_SECONDS):
        last = await container.objects.search(
            {"_id": {"$in": batch["objects"]}}, limit=1, sort=NEWEST_FIRST, fields=["created_at"]
        )
    return [last[0]["created_at"], last[0]["_id"]] if last else None


async def _start_task(
    container: Container, organization_id: str, plan: TriggerPlan, body: TriggerCollection
) -> Triggered:
    collection = plan.collection
    task = await container.runner.create(
        TASK_TYPE,
        organization_id=organization_id,
        namespace_id=collection["namespace_id"],
        inputs=[collection["_id"]],
        data={
            "collection_id": collection["_id"],
            "namespace_id": collection["namespace_id"],
            "bucket_ids": plan.bucket_ids,
            "request": body.model_dump_json(exclude_unset=True),
        },
    )
    container.runner.enqueue(task["_id"])
    return plan.response(task_id=task["_id"], message="the batches are being created")


def _objects_after(
    bucket_id: str, where: Mapping[str, object], after: Sequence[object] | None, created_before: datetime
) -> dict[str, object]:
    """Return the condition for objects behind the cursor that existed when the task was created."""
    conditions = [where] if after is None else [where, objects_after(*after)]
    return {"bucket_id": bucket_id, "created_at": {"$lte": created_before}, "$and": conditions}
