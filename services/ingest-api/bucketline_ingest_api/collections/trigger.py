"""Running a collection over what its sources hold: batches of objects, made and submitted.

Up to 50,000 objects are one batch, made before the answer. More are left to a task that makes as many batches as are
needed; which batch it makes next is derived from the task, so making one again changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from bucketline.db.batches import BatchDocument, task_of
from bucketline.db.buckets import BucketDocument
from bucketline.db.collections import CollectionDocument
from bucketline.db.mongo import query_timeout
from bucketline.db.objects import ObjectDocument
from bucketline.db.tasks import TaskDocument
from bucketline.domain.collection_depth import TIERS_FOLLOWED
from bucketline.domain.moments import Moments
from bucketline.domain.status import Status
from bucketline.errors import BadRequest, NotFound
from bucketline.ids import derived
from bucketline_ingest_api.batches.schemas import SubmitBatch
from bucketline_ingest_api.batches.submit import submit_batch
from bucketline_ingest_api.collections.lookup import live_collection
from bucketline_ingest_api.collections.output_schema import merged
from bucketline_ingest_api.collections.schemas import TriggerCollection, Triggered
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.service import LIST_SPEC as OBJECTS
from bucketline_ingest_api.pagination import Selection, selection
from bucketline_ingest_api.search_timeout import search_timeout
from bucketline_ingest_api.tasks.runner import Reschedule, TaskOutcome, TaskResult

KIND = "api_collections_trigger"
MAX_OBJECTS = 50_000
TURN = timedelta(seconds=15)
SEARCH_SECONDS = 120.0
"""For one batch of objects that match a filter, where nobody waits for the answer."""

OLDEST_FIRST = (("created_at", 1), ("_id", 1))
NEWEST_FIRST = (("created_at", -1), ("_id", -1))

Strategy = Literal["skip", "replace", "force"]


@dataclass(frozen=True)
class Plan:
    """What is to be run. ``downstream``: the collection, and those that read it, tier by tier."""

    collection: CollectionDocument
    bucket_ids: list[str]
    downstream: list[str]
    tiers: int
    selected: Selection


async def trigger_collection(
    deps: Container, organization_id: str, namespace_id: str, identifier: str, body: TriggerCollection
) -> Triggered:
    """Submits the objects; 400 when there are none, or the collection is switched off."""
    collection = await live_collection(deps, namespace_id, identifier)
    if not collection["enabled"]:
        raise BadRequest("the collection is disabled", code="collection_disabled")
    plan = await _plan(deps, collection, body)
    with search_timeout():
        counted = await deps.objects.collection.count(
            {"bucket_id": {"$in": plan.bucket_ids}, **plan.selected.where},
            limit=MAX_OBJECTS + 1,
            computed=plan.selected.computed,
        )
    if counted == 0:
        raise BadRequest("there are no objects to process", code="nothing_to_process")
    if counted > MAX_OBJECTS or len(plan.bucket_ids) > 1:
        return await _leave_to_task(deps, organization_id, plan, body)
    [bucket_id] = plan.bucket_ids
    with search_timeout():
        page = await deps.objects.collection.find(
            {"bucket_id": bucket_id, **plan.selected.where},
            limit=MAX_OBJECTS,
            sort=OLDEST_FIRST,
            fields=["_id"],
            computed=plan.selected.computed,
        )
    ids = [obj["_id"] for obj in page]
    batch = await _submit(deps, plan, deps.ids.new("btch"), bucket_id, ids, body.dedup_strategy)
    return Triggered(
        task_id=batch["task_id"],
        collection_id=collection["_id"],
        batch_id=batch["_id"],
        source_bucket_ids=plan.bucket_ids,
        source_collection_ids=collection["source"]["collection_ids"] or None,
        object_count=len(ids),
        total_tiers=plan.tiers,
        message=f"{len(ids)} objects were submitted",
    )


async def trigger_turn(deps: Container, task: TaskDocument) -> TaskOutcome:
    """One turn of the task: some batches. Where it goes on is kept with the task."""
    data = task["data"]
    collection = await deps.collections.collection.get(task["inputs"][0])
    if collection is None or collection.get("deleting"):
        return TaskResult(status=Status.CANCELED, error="the collection was deleted")
    body = TriggerCollection.model_validate_json(str(data["request"]))
    plan = await _plan(deps, collection, body)
    made = [str(batch_id) for batch_id in _list(data.get("batch_ids"))]
    place, after, objects = _int(data.get("place")), data.get("after"), _int(data.get("object_count"))
    until = deps.clock.now() + TURN
    buckets = [str(bucket_id) for bucket_id in _list(data["bucket_ids"])]
    while place < len(buckets):
        if deps.clock.now() >= until:
            state = {"place": place, "after": after, "batch_ids": made, "object_count": objects}
            return Reschedule(deps.clock.now(), state)
        batch_id = derived("btch", task["_id"], len(made))
        page: list[ObjectDocument] = []
        with query_timeout(SEARCH_SECONDS):
            # Of a turn that was cut off: by now other objects may match, and these must be neither lost nor forgotten.
            batch = await deps.batches.get(batch_id)
            if batch is None:
                page = await deps.objects.collection.find(
                    _following(buckets[place], plan.selected.where, after, task["created_at"]),
                    limit=MAX_OBJECTS,
                    sort=OLDEST_FIRST,
                    fields=["created_at"],
                    computed=plan.selected.computed,
                )
        if batch is None and not page:
            place, after = place + 1, None
            continue
        bucket_id, ids = (batch["bucket_id"], batch["objects"]) if batch else (buckets[place], [o["_id"] for o in page])
        batch = await _submit(deps, plan, batch_id, bucket_id, ids, body.dedup_strategy)
        if batch["bucket_id"] != buckets[place]:
            place, after = buckets.index(batch["bucket_id"]), None
        made.append(batch_id)
        objects += batch["total"]
        after = await _end_of(deps, batch, page) or after
        state = {"place": place, "after": after, "batch_ids": made, "object_count": objects}
        await deps.tasks.note(task["_id"], state)
        if batch["total"] < MAX_OBJECTS:
            place, after = place + 1, None
    return TaskResult(outputs=made, data={"batch_ids": made, "object_count": objects})


async def _plan(deps: Container, collection: CollectionDocument, body: TriggerCollection) -> Plan:
    sources = await _source_buckets(deps, collection, body.include_collections)
    buckets = [bucket["_id"] for bucket in sources]
    if body.include_buckets is not None:
        wanted = set()
        for identifier in body.include_buckets:
            bucket = await deps.bucket(collection["namespace_id"], identifier)
            if bucket is None or bucket["_id"] not in buckets:
                raise NotFound.of("bucket", identifier)
            wanted.add(bucket["_id"])
        buckets = [bucket_id for bucket_id in buckets if bucket_id in wanted]
    scope: Mapping[str, object] = {} if body.object_ids is None else {"_id": {"$in": body.object_ids}}
    kind = replace(OBJECTS, moments=Moments(merged([bucket["schema"] for bucket in sources])))
    selected = selection(scope, kind, body.source_filters, location=("body", "source_filters"))
    downstream, tiers = await _downstream(deps, collection)
    return Plan(collection, buckets, downstream, tiers, selected)


async def _source_buckets(
    deps: Container, collection: CollectionDocument, include: Sequence[str] | None
) -> list[BucketDocument]:
    """The buckets whose objects end up in the collection, through other collections too."""
    found: dict[str, None] = dict.fromkeys(collection["source"]["bucket_ids"])
    ids = collection["source"]["collection_ids"]
    if include is not None:
        parents = [await live_collection(deps, collection["namespace_id"], identifier) for identifier in include]
        ids = [parent["_id"] for parent in parents if parent["_id"] in ids]
    for _ in range(TIERS_FOLLOWED):
        if not ids:
            break
        tier = await deps.collections.collection.find({"_id": {"$in": ids}}, limit=len(ids))
        for parent in tier:
            found |= dict.fromkeys(parent["source"]["bucket_ids"])
        ids = [identifier for parent in tier for identifier in parent["source"]["collection_ids"]]
    live = await deps.buckets.collection.find(
        {"_id": {"$in": list(found)}, "deleting": {"$ne": True}}, limit=max(1, len(found)), fields=["schema"]
    )
    kept = {bucket["_id"]: bucket for bucket in live}
    return [kept[bucket_id] for bucket_id in found if bucket_id in kept]


async def _downstream(deps: Container, collection: CollectionDocument) -> tuple[list[str], int]:
    found: dict[str, None] = {collection["_id"]: None}
    tier, tiers = [collection["_id"]], 1
    while tiers < TIERS_FOLLOWED:
        readers = await deps.collections.reading_collections(tier)
        tier = [reader["_id"] for reader in readers if reader["_id"] not in found]
        if not tier:
            break
        found |= dict.fromkeys(tier)
        tiers += 1
    return list(found), tiers


async def _submit(
    deps: Container, plan: Plan, batch_id: str, bucket_id: str, object_ids: list[str], strategy: Strategy
) -> BatchDocument:
    """Makes and submits the batch, unless that was done before."""
    now = deps.clock.now()
    batch: BatchDocument = {
        "_id": batch_id,
        "namespace_id": plan.collection["namespace_id"],
        "bucket_id": bucket_id,
        "batch_name": None,
        "status": str(Status.DRAFT),
        "objects": object_ids,
        "total": len(object_ids),
        "collection_ids": plan.downstream,
        "dedup_strategy": strategy,
        "metadata": {"triggered_by": plan.collection["_id"]},
        "task_id": task_of(batch_id),
        "auto": False,
        "created_at": now,
        "updated_at": now,
    }
    await deps.batches.insert([batch])
    known = await deps.batches.get(batch_id) or batch
    if known["status"] != str(Status.DRAFT):
        return known
    return await submit_batch(deps, known, SubmitBatch())


async def _end_of(deps: Container, batch: BatchDocument, page: Sequence[ObjectDocument]) -> list[object] | None:
    """Where the objects behind the batch begin: after the last of it that is still there. None if there is none.

    ``page`` is what it was made from, unless it was there before.
    """
    if page and page[-1]["_id"] == batch["objects"][-1]:
        return [page[-1]["created_at"], page[-1]["_id"]]
    with query_timeout(SEARCH_SECONDS):
        left = await deps.objects.collection.find(
            {"_id": {"$in": batch["objects"]}}, limit=1, sort=NEWEST_FIRST, fields=["created_at"]
        )
    return [left[0]["created_at"], left[0]["_id"]] if left else None


async def _leave_to_task(deps: Container, organization_id: str, plan: Plan, body: TriggerCollection) -> Triggered:
    collection = plan.collection
    task = await deps.runner.create(
        KIND,
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
    deps.runner.enqueue(task["_id"])
    return Triggered(
        task_id=task["_id"],
        collection_id=collection["_id"],
        source_bucket_ids=plan.bucket_ids,
        source_collection_ids=collection["source"]["collection_ids"] or None,
        total_tiers=plan.tiers,
        message="the batches are being made",
    )


def _following(bucket_id: str, where: Mapping[str, object], after: object, before: datetime) -> dict[str, object]:
    """Objects of the bucket that were there when the task was made, behind the last one that was taken."""
    created: dict[str, Any] = {"$lte": before}
    conditions: list[Mapping[str, object]] = [where] if where else []
    if isinstance(after, list | tuple) and len(after) == 2:
        created["$gte"] = after[0]
        conditions.append({"$or": [{"created_at": {"$gt": after[0]}}, {"_id": {"$gt": after[1]}}]})
    found: dict[str, object] = {"bucket_id": bucket_id, "created_at": created}
    return found | {"$and": conditions} if conditions else found


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0
