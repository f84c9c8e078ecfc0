"""One list over two collections: stored tasks, and the batches whose tasks are a view of them.

Both are read in the list's order from where the page begins, and merged. The order is total: by the date (or what was
asked for), then by the stored id, which no task shares with a batch. So a page ends at the same place in both.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cmp_to_key
from typing import Any, cast

from bucketline.db.batches import SUMMARY_FIELDS, BatchDocument
from bucketline.db.mongo import Collection
from bucketline.db.tasks import TaskDocument
from bucketline.domain.bson_compare import compare, sort_key
from bucketline.domain.case_folding import literal
from bucketline.domain.filter_match import matches
from bucketline.domain.filter_to_mongo import to_mongo
from bucketline.domain.filters import Condition, Filter, Group, parse
from bucketline.domain.keyset import mongo_sort, rows_after
from bucketline.domain.paging import TASKS, PageRequest, cut, pagination, resolve_page
from bucketline.domain.sorting import Sort, resolve_sorts
from bucketline.domain.status import Status
from bucketline.errors import ValidationFailed, ValidationIssue
from bucketline_ingest_api.auth import Principal
from bucketline_ingest_api.batches.listing import add_objects_shown
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.pagination import NEWEST_FIRST, field_mapper, search_condition
from bucketline_ingest_api.schemas import ListQuery, Pagination
from bucketline_ingest_api.search_timeout import search_timeout
from bucketline_ingest_api.tasks.schemas import ListTasks

BATCH_TASK = "api_buckets_batches_process"
SORTABLE = frozenset({"created_at", "updated_at", "status"})
NAMESPACES_A_QUERY = 100
"""In one query as many ranges of the index are merged by the server; more would be sorted in memory."""

_OF_TASK = field_mapper(
    {
        "task_id": "_id",
        "task_type": "type",
        "status": "status",
        "inputs": "inputs",
        "outputs": "outputs",
        "additional_data": "data",
        "error": "error",
        "namespace_id": "namespace_id",
        "created_at": "created_at",
        "updated_at": "updated_at",
    },
    under="unknown",
)
_OF_BATCH = field_mapper(
    {
        "task_id": "task_id",
        "status": "status",
        "inputs": "_id",
        "error": "failure_reason",
        "namespace_id": "namespace_id",
        "batch_id": "_id",
        "bucket_id": "bucket_id",
        "collection_ids": "collection_ids",
        "object_count": "total",
        "created_at": "created_at",
        "updated_at": "updated_at",
    },
    under="unknown",
)

Row = TaskDocument | BatchDocument
Query = Mapping[str, object]


def _batch_path(name: str) -> str:
    return _OF_BATCH(name.removeprefix("additional_data."))


def _same(name: str) -> str:
    """Fields to sort by have the same name everywhere."""
    return name


async def list_tasks(
    deps: Container, caller: Principal, asked: ListQuery, body: ListTasks | None, *, namespace_id: str | None = None
) -> tuple[list[Row], Pagination]:
    """Tasks that the caller may see, newest first; only those of one namespace if it is given."""
    given = body.model_dump(exclude_none=True) if body else {}
    page = resolve_page(asked.query, given, TASKS)
    sorts = page.sorts(_sorts(given), NEWEST_FIRST)
    within = [namespace_id] if namespace_id else sorted(caller.namespaces)
    conditions = _conditions(given)
    task_scope: dict[str, object] = {"organization_id": caller.organization_id, "hidden": {"$ne": True}}
    if within:
        task_scope["namespace_id"] = {"$in": within}
    tasks = _every([task_scope, *conditions[0]])
    visible = within or await deps.namespaces.ids(caller.organization_id)
    batches = [
        _every([_batch_scope(visible[start : start + NAMESPACES_A_QUERY]), *conditions[1]])
        for start in range(0, len(visible), NAMESPACES_A_QUERY)
    ]
    with search_timeout():
        found = await asyncio.gather(
            _read(deps.tasks.collection, tasks, sorts, page),
            *(_read(deps.batches.collection, b, sorts, page, SUMMARY_FIELDS) for b in batches),
        )
    merged = sorted((row for rows in found for row in rows), key=cmp_to_key(_order(sorts)))
    rows = merged[page.skip : page.skip + page.size + 1]
    count, next_cursor = cut(rows, page, sorts, _same)
    total = None
    if page.include_total:
        counts = [deps.tasks.collection.count(tasks), *(deps.batches.collection.count(b) for b in batches)]
        with search_timeout():
            total = sum(await asyncio.gather(*counts))
    shown = pagination(page, next_cursor, path=asked.path, query=asked.query, total=total)
    await add_objects_shown(deps, [cast("BatchDocument", row) for row in rows[:count] if "task_id" in row])
    return rows[:count], Pagination.model_validate(shown)


async def _read(
    collection: Collection[Any],
    where: Query,
    sorts: Sequence[Sort],
    page: PageRequest,
    fields: Sequence[str] | None = None,
) -> list[Any]:
    """Everything of one source that can be on the page: it may be the only source that has any."""
    if page.cursor is not None and page.cursor.position is not None:
        where = {"$and": [where, rows_after(page.cursor.position, sorts, _same, simple=("_id", "created_at"))]}
    return await collection.find(where, sort=mongo_sort(sorts, _same), limit=page.skip + page.size + 1, fields=fields)


def _conditions(given: Mapping[str, Any]) -> tuple[list[Query], list[Query]]:
    """What a task, and what a batch, must be, beside being in scope."""
    tasks: list[Query] = []
    batches: list[Query] = []
    filters = given.get("filters")
    if filters and given.get("case_sensitive"):
        filters = {**filters, "case_sensitive": True}
    tree = parse(filters, exact=("task_id", "task_type", "status", "namespace_id"))
    wanted: list[Filter] = [tree]
    wanted += [Condition(name, "eq", str(given[name]), True) for name in ("status", "task_type") if name in given]
    for one in wanted:
        tasks.append(to_mongo(one, _OF_TASK))
        batches.append(to_mongo(_with_type(one), _batch_path))
    if text := given.get("search"):
        pattern = literal(text, case_sensitive=bool(given.get("case_sensitive")))
        tasks.append(search_condition(pattern, ("_id", "type", "inputs", "data.bucket_name")))
        batches.append(search_condition(pattern, ("task_id", "_id", "batch_name", "bucket_id")))
    return tasks, batches


def _with_type(tree: Filter) -> Filter:
    """Every batch's task is of one type, which no batch stores: what is asked of it is answered here."""
    if isinstance(tree, Group):
        parts = ("every", "some", "none")
        return replace(tree, **{part: tuple(map(_with_type, getattr(tree, part))) for part in parts})
    if tree.field != "task_type":
        return tree
    return Group() if matches(tree, {"task_type": BATCH_TASK}, _same) else Group(none=(Group(),))


def _batch_scope(namespace_ids: Sequence[str]) -> Query:
    return {
        "namespace_id": {"$in": list(namespace_ids)},
        "status": {"$ne": str(Status.DRAFT)},
        "task_hidden": {"$ne": True},
    }


def _sorts(given: Mapping[str, Any]) -> tuple[Sort, ...] | None:
    sorts = resolve_sorts(given.get("sort"), given.get("sorts"))
    if sorts and (unknown := [sort.field for sort in sorts if sort.field not in SORTABLE]):
        known = ", ".join(sorted(SORTABLE))
        raise ValidationFailed(
            [ValidationIssue("enum", ("body", "sort", "field"), f"{unknown[0]!r} is not one of: {known}")]
        )
    return sorts


def _order(sorts: Sequence[Sort]) -> Callable[[Row, Row], int]:
    by = [*sorts, Sort("_id", sorts[-1].descending)]

    def order(left: Row, right: Row) -> int:
        for sort in by:
            result = compare(
                sort_key(left, sort.field, descending=sort.descending),
                sort_key(right, sort.field, descending=sort.descending),
            )
            if result:
                return -result if sort.descending else result
        return 0

    return order


def _every(conditions: Sequence[Query]) -> Query:
    kept = [condition for condition in conditions if condition]
    return kept[0] if len(kept) == 1 else {"$and": kept}
