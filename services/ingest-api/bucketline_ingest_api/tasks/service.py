"""List, show and delete the tasks that a caller may see.

A batch that was submitted shows as a task too, although none is stored for it. Lists therefore read two collections,
in one aggregation: each is read in the order of the list, from its index, and the server merges them. The order is
total because the last key is the stored id, which a task never shares with a batch.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

from bucketline.clock import wire_time
from bucketline.db.batches import BatchDocument
from bucketline.db.tasks import TaskDocument
from bucketline.domain.filters import Condition, Filter, literal_pattern, parse_filter, to_mongo
from bucketline.domain.keyset import Sort, mongo_sort, resolve_sorts, rows_after
from bucketline.domain.pagination import TASKS, PageRequest, build_pagination, resolve_page, split_page
from bucketline.domain.status import BATCH_ACTIVE, FINAL, Status
from bucketline.errors import NotFound, ValidationFailed, ValidationIssue
from bucketline_ingest_api.auth import Principal, can_access
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.pagination import NEWEST_FIRST, field_mapper, search_condition, search_timeout
from bucketline_ingest_api.schemas import ListQuery, Pagination
from bucketline_ingest_api.tasks.schemas import ListTasks, Task, TaskList

BATCH_TASK_TYPE = "api_buckets_batches_process"
SAMPLE_SIZE = 10
SORTABLE = frozenset({"created_at", "updated_at", "status"})
NAMESPACES_PER_QUERY = 100
"""The server merges up to 200 ranges of an index; above that it would sort in memory."""

Query = Mapping[str, object]
Stage = Mapping[str, object]

_SHARED = ("status", "namespace_id", "created_at", "updated_at")
_TASK_PATHS = field_mapper(
    {"task_id": "_id", "task_type": "type", "additional_data": "data"},
    unchanged=("inputs", "outputs", "error", *_SHARED),
)
_BATCH_PATHS = field_mapper(
    {"task_type": "type", "inputs": "_id", "error": "failure_reason", "batch_id": "_id", "object_count": "total"},
    unchanged=("task_id", "bucket_id", "collection_ids", *_SHARED),
)
_BATCH_TYPE: Mapping[str, object] = {"type": {"$literal": BATCH_TASK_TYPE}}
_INTERNAL_DATA = frozenset({"request", "after", "bucket_index"})
"""State that steps keep in a task's data and that is not shown."""


async def find_task(deps: Container, caller: Principal, task_id: str) -> TaskDocument | BatchDocument:
    """Return the task, or the batch that shows as this task.

    Raises :class:`NotFound` for one that the caller may not see, and for a batch that has not been submitted.
    """
    task = await deps.tasks.get_by_id(task_id)
    if task is not None:
        visible = task["organization_id"] == caller.organization_id and not task.get("hidden")
        if visible and (not caller.namespaces or task["namespace_id"] in caller.namespaces):
            return task
        raise NotFound.of("task", task_id)
    batch = await deps.batches.get_by_task(task_id)
    if batch is not None and not batch.get("task_hidden") and batch["status"] != Status.DRAFT:
        namespace = await deps.namespaces.get_by_id(batch["namespace_id"])
        if namespace is not None and can_access(caller, namespace):
            return batch
    raise NotFound.of("task", task_id)


async def remove_task(deps: Container, caller: Principal, task_id: str) -> None:
    """Remove the record of a task; its work, or the batch, goes on. Idempotent."""
    try:
        task = await find_task(deps, caller, task_id)
    except NotFound:
        return
    if "task_id" in task:
        await deps.batches.hide_task(task["_id"])
    else:
        await deps.tasks.hide(task["_id"])


async def find_tasks(
    deps: Container, caller: Principal, list_query: ListQuery, body: ListTasks | None, *, namespace_id: str | None
) -> TaskList:
    """Return a page of the tasks that the caller may see, newest first; of one namespace only if it is given."""
    given = body.model_dump(exclude_none=True) if body else {}
    page = resolve_page(list_query.query, given, TASKS)
    sorts = page.sorts(_requested_sorts(given), NEWEST_FIRST)
    namespace_ids = [namespace_id] if namespace_id else sorted(caller.namespaces)
    task_scope: dict[str, object] = {"organization_id": caller.organization_id, "hidden": {"$ne": True}}
    if namespace_ids:
        task_scope["namespace_id"] = {"$in": namespace_ids}
    batch_namespaces = namespace_ids or await deps.namespaces.ids(caller.organization_id)
    batch_scopes: list[Query] = [
        {
            "namespace_id": {"$in": batch_namespaces[start : start + NAMESPACES_PER_QUERY]},
            "status": {"$ne": str(Status.DRAFT)},
            "task_hidden": {"$ne": True},
        }
        for start in range(0, len(batch_namespaces), NAMESPACES_PER_QUERY)
    ]
    task_conditions, batch_conditions = _conditions(given)
    pipeline = _ordered(task_scope, task_conditions, sorts, page)
    for scope in batch_scopes:
        batches = [
            *_ordered(scope, batch_conditions, sorts, page, computed=_BATCH_TYPE),
            {"$set": {"objects": {"$slice": ["$objects", SAMPLE_SIZE]}}},
            {"$unset": ["failed_objects", "pending"]},
        ]
        pipeline.append({"$unionWith": {"coll": "batches", "pipeline": batches}})
    order = dict(mongo_sort(sorts, str))
    pipeline += [{"$sort": order}, *([{"$skip": page.skip}] if page.skip else []), {"$limit": page.size + 1}]
    with search_timeout():
        rows = await deps.tasks.aggregate(pipeline, limit=page.size + 1)
        total = None
        if page.include_total:
            counts = await asyncio.gather(
                deps.tasks.count_matching(_all_of([task_scope, *task_conditions])),
                *(
                    deps.batches.count_matching(_all_of([scope, *batch_conditions]), computed=_BATCH_TYPE)
                    for scope in batch_scopes
                ),
            )
            total = sum(counts)
    count, next_cursor = split_page(rows, page, sorts, str)
    shown = build_pagination(page, next_cursor, path=list_query.path, query=list_query.query, total=total)
    return TaskList(
        results=[serialize_task(cast("TaskDocument | BatchDocument", row)) for row in rows[:count]],
        pagination=Pagination.model_validate(shown),
    )


def serialize_task(task: TaskDocument | BatchDocument) -> Task:
    """Return the response for a stored task, or for the batch that shows as one."""
    if "task_id" in task:
        return serialize_batch_task(cast("BatchDocument", task))
    data: dict[str, object] = {name: value for name, value in task["data"].items() if name not in _INTERNAL_DATA}
    data |= {"created_at": wire_time(task["created_at"]), "updated_at": wire_time(task["updated_at"])}
    if task["error"]:
        data["error"] = task["error"]
    return Task(
        task_id=task["_id"],
        task_type=task["type"],
        status=Status(task["status"]),
        inputs=task["inputs"],
        outputs=task["outputs"],
        additional_data=data,
        error=task["error"],
    )


def serialize_batch_task(batch: BatchDocument, *, cancellation: dict[str, int] | None = None) -> Task:
    """Return the task that a submitted batch shows as; with ``cancellation`` as the response to a cancel request."""
    status, error = batch["status"], batch.get("failure_reason")
    data: dict[str, Any] = {
        "batch_id": batch["_id"],
        "bucket_id": batch["bucket_id"],
        "namespace_id": batch["namespace_id"],
        "current_tier": 0 if status in FINAL else None,
        "total_tiers": 1,
        "collection_ids": batch["collection_ids"] or [],
        "object_count": batch["total"],
        "sample_object_ids": batch.get("objects", [])[:SAMPLE_SIZE],
        "processed": batch.get("processed", 0),
        "created_at": wire_time(batch["created_at"]),
        "updated_at": wire_time(batch["updated_at"]),
    }
    if batch.get("cancel_requested_at") is not None:
        data["cancel_reason"] = batch.get("cancel_reason")
    if error:
        data["error"] = error
    if cancellation is not None and status in BATCH_ACTIVE:
        # The cancellation is granted, although work that a processor holds right now still runs to its end.
        status = str(Status.CANCELED)
    return Task(
        task_id=batch["task_id"],
        task_type=BATCH_TASK_TYPE,
        status=Status(status),
        inputs=[batch["_id"]],
        outputs=[],
        additional_data=data,
        error=error,
        cancellation=cancellation,
    )


def _ordered(
    scope: Query,
    conditions: Sequence[Query],
    sorts: Sequence[Sort],
    page: PageRequest,
    *,
    computed: Mapping[str, object] | None = None,
) -> list[Stage]:
    """Return the stages that read as many rows of one collection as the page could consist of."""
    where = [scope]
    if page.cursor is not None and page.cursor.position is not None:
        where.append(rows_after(page.cursor.position, sorts, str, simple=("_id", "created_at")))
    stages: list[Stage] = [{"$match": _all_of(where)}, {"$sort": dict(mongo_sort(sorts, str))}]
    if computed and conditions:
        stages.append({"$set": computed})
    if conditions:
        # The server moves conditions on stored fields in front of the sort by itself.
        stages.append({"$match": _all_of(conditions)})
    return [*stages, {"$limit": page.skip + page.size + 1}]


def _conditions(given: Mapping[str, Any]) -> tuple[list[Query], list[Query]]:
    """Return the conditions that the request makes, on stored tasks and on batches."""
    filters = given.get("filters")
    if filters and given.get("case_sensitive"):
        filters = {**filters, "case_sensitive": True}
    wanted: list[Filter] = [parse_filter(filters, exact=("task_id", "task_type", "status", "namespace_id"))]
    wanted += [Condition(name, "eq", str(given[name]), True) for name in ("status", "task_type") if name in given]
    tasks: list[Query] = [to_mongo(condition, _TASK_PATHS) for condition in wanted]
    batches: list[Query] = [to_mongo(condition, _batch_path) for condition in wanted]
    if text := given.get("search"):
        pattern = literal_pattern(text, case_sensitive=bool(given.get("case_sensitive")))
        tasks.append(search_condition(pattern, ("_id", "type", "inputs", "data.bucket_name")))
        batches.append(search_condition(pattern, ("task_id", "_id", "batch_name", "bucket_id")))
    return [condition for condition in tasks if condition], [condition for condition in batches if condition]


def _batch_path(name: str) -> str:
    return _BATCH_PATHS(name.removeprefix("additional_data."))


def _requested_sorts(given: Mapping[str, Any]) -> tuple[Sort, ...] | None:
    sorts = resolve_sorts(given.get("sort"), given.get("sorts"))
    for sort in sorts or ():
        if sort.field not in SORTABLE:
            message = f"{sort.field!r} is not one of: {', '.join(sorted(SORTABLE))}"
            raise ValidationFailed([ValidationIssue("enum", ("body", "sort", "field"), message)])
    return sorts


def _all_of(conditions: Sequence[Query]) -> Query:
    return conditions[0] if len(conditions) == 1 else {"$and": list(conditions)}
