"""Reads objects: one by its id, pages of a bucket, aggregates, the documents made of one, download URLs of blobs."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any

from bucketline.clock import wire_time
from bucketline.db.buckets import BucketDocument
from bucketline.db.documents import DocumentDocument
from bucketline.db.objects import BlobDocument, ObjectDocument
from bucketline.domain.keyset import path_fault
from bucketline.domain.media_types import safe_filename
from bucketline.domain.moments import MOMENTS, Moments
from bucketline.domain.pagination import OBJECTS
from bucketline.domain.schema import properties
from bucketline.errors import DependencyUnavailable, NotFound, ValidationFailed, ValidationIssue
from bucketline.observability.logging import get_logger
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.schemas import AggregateObjects, Aggregates, Aggregation, ListObjects, Row
from bucketline_ingest_api.pagination import (
    OLDEST_FIRST,
    ListSpec,
    Page,
    field_mapper,
    list_rows,
    search_timeout,
    select_rows,
)
from bucketline_ingest_api.schemas import ListQuery, SortSpec

log = get_logger(__name__)

MAX_DOCUMENTS = 1000
COUNT_TIMEOUT_SECONDS = 2.0
PRESIGNED_SECONDS = 3600

MAX_SEARCHED_FIELDS = 100
MAX_SEARCH_DEPTH = 3

LIST_SPEC = ListSpec(
    bounds=OBJECTS,
    field_path=field_mapper(
        {"object_id": "_id", "idempotency_key": "idempotency_keys"},
        unchanged=(
            *("bucket_id", "namespace_id", "key_prefix", "blobs", "edges", "status", "error"),
            *("created_at", "updated_at", "document_count", MOMENTS),
        ),
        under="custom",
    ),
    under="custom",
    searched=(),
    order=OLDEST_FIRST,
    counted=False,
    exact=frozenset({"object_id", "bucket_id", "namespace_id", "status"}),
    simple=("_id", "created_at", "updated_at", "status"),
    without=("blobs.source.text", "blobs.source.value", "blobs.source.base64", "pending"),
)


async def get_object(deps: Container, bucket_id: str, object_id: str) -> ObjectDocument:
    """Return the object; :class:`NotFound` also for an object of another bucket."""
    obj = await deps.objects.get(bucket_id, object_id)
    if obj is None:
        raise NotFound.of("object", object_id)
    return obj


async def count_documents(deps: Container, object_id: str) -> int | None:
    """Return how many documents were made of the object, or None if they cannot be counted in time."""
    try:
        async with asyncio.timeout(COUNT_TIMEOUT_SECONDS):
            return await deps.documents.count_of_object(object_id)
    except (TimeoutError, DependencyUnavailable) as error:
        log.warning("documents not counted", object_id=object_id, error=repr(error))
        return None


async def list_documents(
    deps: Container, namespace_id: str, object_id: str, collection_ids: Sequence[str]
) -> tuple[int, list[DocumentDocument]]:
    """Return the number of documents made of the object, and the first :data:`MAX_DOCUMENTS` of them.

    No ``collection_ids``: of every collection. :class:`NotFound` unless the object is in the namespace.
    """
    obj = await deps.objects.get_by_id(object_id, fields=["namespace_id"])
    if obj is None or obj["namespace_id"] != namespace_id:
        raise NotFound.of("object", object_id)
    where: dict[str, object] = {"object_id": object_id}
    if collection_ids:
        where["collection_id"] = {"$in": list(collection_ids)}
    documents = await deps.documents.search(
        where, limit=MAX_DOCUMENTS, sort=[("collection_id", 1), ("run", 1), ("ordinal", 1)]
    )
    total = len(documents) if len(documents) < MAX_DOCUMENTS else await deps.documents.count_matching(where)
    return total, documents


async def presign_blobs(deps: Container, objects: Sequence[ObjectDocument]) -> dict[str, str]:
    """Return download URLs, valid for an hour, by blob id: of every blob whose bytes are in our store."""
    urls = {}
    for obj in objects:
        for blob in obj["blobs"]:
            if (location := _stored_location(blob)) is not None:
                key, name = location
                urls[blob["blob_id"]] = await deps.blobstore.presign_get(key, expires=PRESIGNED_SECONDS, filename=name)
        # Signing does no I/O and a page may have 100,000 blobs: yield to other requests.
        await asyncio.sleep(0)
    return urls


def _stored_location(blob: BlobDocument) -> tuple[str, str | None] | None:
    """Return the key of the blob's bytes and a filename for them. A confirmed upload keeps its key when mirrored."""
    if (storage := blob["storage"]) is not None:
        return storage["key"], blob["details"]["filename"] if blob["details"] is not None else None
    source = blob["source"] or {}
    if source.get("kind") != "upload":
        return None
    filename = source.get("filename")
    return str(source["key"]), safe_filename(filename) if isinstance(filename, str) else None


async def list_objects(
    deps: Container, bucket: BucketDocument, query: ListQuery, body: ListObjects | None
) -> Page[ObjectDocument]:
    """Return a page of the bucket's objects, oldest first unless the body sorts them."""
    if body is not None:
        body = body.model_copy(update={"sort": _indexed_sort(body.sort)})
    spec = replace(list_spec(bucket), searched=partial(_search_condition, bucket))
    return await list_rows(deps.objects, {"bucket_id": bucket["_id"]}, spec, query, body)


def list_spec(bucket: BucketDocument) -> ListSpec:
    """Return how objects of this bucket are listed: its schema says which of their fields are dates."""
    return replace(LIST_SPEC, moments=Moments(bucket["schema"]))


def page_stats(objects: Sequence[ObjectDocument]) -> dict[str, Any]:
    """Return the counts of one page."""
    blobs = sum(len(obj["blobs"]) for obj in objects)
    return {
        "total_objects": len(objects),
        "total_blobs": blobs,
        "avg_blobs_per_object": blobs / len(objects) if objects else 0.0,
        "objects_by_status": dict(Counter(obj["status"] for obj in objects)),
    }


def _indexed_sort(sort: SortSpec | list[SortSpec] | None) -> SortSpec | list[SortSpec] | None:
    """Order objects of equal status by creation, as the index does."""
    only = sort[0] if isinstance(sort, list) and len(sort) == 1 else sort
    if isinstance(only, SortSpec) and only.field == "status":
        return [only, SortSpec(field="created_at", direction=only.direction)]
    return sort


def _search_condition(bucket: BucketDocument, pattern: str) -> Mapping[str, object]:
    """Match objects with the pattern in their key, in text at their root, or in a field that the schema declares."""
    declared = islice(_text_paths(properties(bucket["schema"]), "custom", MAX_SEARCH_DEPTH), MAX_SEARCHED_FIELDS)
    matches = {"$regex": pattern}
    text = {"$cond": [{"$eq": [{"$type": "$$field.v"}, "string"]}, "$$field.v", ""]}
    at_root = {
        "$anyElementTrue": {
            "$map": {
                "input": {"$objectToArray": "$custom"},
                "as": "field",
                "in": {"$regexMatch": {"input": text, "regex": pattern}},
            }
        }
    }
    paths = ("_id", "key_prefix", *declared)
    return {"$or": [*({path: matches} for path in paths), {"$expr": at_root}]}


def _text_paths(declared: Mapping[str, Mapping[str, object]], above: str, depth: int) -> Iterator[str]:
    """Yield the stored paths of declared fields that hold text, also inside objects and arrays."""
    for name, field in declared.items():
        path = f"{above}.{name}"
        items = field.get("items")
        inner = items if field["type"] == "array" and isinstance(items, dict) else field
        if inner["type"] in ("string", "text", "date", "datetime", "array"):
            yield path
        elif inner["type"] == "object" and depth > 1:
            yield from _text_paths(properties(inner), path, depth - 1)


async def aggregate_objects(deps: Container, bucket: BucketDocument, body: AggregateObjects) -> Aggregates:
    """Return one row for each group, at most ``body.limit`` of them."""
    spec = list_spec(bucket)
    _validate(body)
    fields = [group.field for group in body.group_by] + [operation.field or "" for operation in body.aggregations]
    paths = [_path(spec, field) for field in fields]
    selected = select_rows({"bucket_id": bucket["_id"]}, spec, body.filters, order=paths)
    pipeline: list[Mapping[str, object]] = [{"$set": selected.computed}] if selected.computed else []
    pipeline += [{"$match": selected.where}, {"$group": _group_stage(spec, body)}]
    if body.having:
        names = {entry.alias: f"m{index}" for index, entry in enumerate(body.aggregations)}
        conditions = [{names[having.field]: {f"${having.operator}": having.value}} for having in body.having]
        pipeline.append({"$match": {"$and": conditions}})
    pipeline += [{"$sort": _sort_stage(body)}, {"$limit": body.limit + 1}]
    with search_timeout():
        rows = await deps.objects.aggregate(pipeline, limit=body.limit + 1)
    results = [_to_row(spec, body, row) for row in rows[: body.limit]]
    truncated = len(rows) > body.limit
    return Aggregates(
        results=results, total_groups=len(results), query_info={"limit": body.limit, "truncated": truncated}
    )


def _validate(body: AggregateObjects) -> None:
    """Validate paths, aliases and references between them, which the body's model cannot express."""
    faults = []
    lists: dict[str, list[Any]] = {"group_by": list(body.group_by), "aggregations": list(body.aggregations)}
    for name, entries in lists.items():
        aliases: set[str] = set()
        for index, entry in enumerate(entries):
            at = ("body", name, index)
            if entry.name in aliases:
                faults.append(ValidationIssue("duplicate", (*at, "alias"), f"{entry.name!r} is used twice"))
            aliases.add(entry.name)
            if entry.field is None:
                if entry.function != "count":
                    faults.append(ValidationIssue("missing", (*at, "field"), f"{entry.function} needs a field"))
            elif (reason := _path_fault(entry.field)) is not None:
                faults.append(ValidationIssue("field_path", (*at, "field"), reason))
    metrics = {entry.alias for entry in body.aggregations}
    for index, having in enumerate(body.having or ()):
        if having.field not in metrics:
            faults.append(
                ValidationIssue("enum", ("body", "having", index, "field"), "not the alias of an aggregation")
            )
    if body.sort_by is not None and body.sort_by not in metrics | {entry.name for entry in body.group_by}:
        faults.append(ValidationIssue("enum", ("body", "sort_by"), "neither an alias of an aggregation nor grouped by"))
    if faults:
        raise ValidationFailed(faults)


def _path_fault(field: str) -> str | None:
    if any(part.isdigit() for part in field.split(".")):
        return "an index of an array cannot be aggregated"
    return path_fault(field)


def _path(spec: ListSpec, field: str) -> str:
    """Return the path by which a field is compared: dates are compared as moments."""
    return spec.moments.path(field) or field


def _group_stage(spec: ListSpec, body: AggregateObjects) -> dict[str, object]:
    stage: dict[str, object] = {
        "_id": {f"g{index}": _value(spec, _path(spec, entry.field)) for index, entry in enumerate(body.group_by)}
    }
    for index, entry in enumerate(body.group_by):
        if spec.moments.path(entry.field) is not None:
            # One moment may have been written in several ways: show the first of them.
            stage[f"t{index}"] = {"$min": _value(spec, entry.field)}
    for index, operation in enumerate(body.aggregations):
        stage[f"m{index}"] = _accumulator(spec, operation)
    return stage


def _accumulator(spec: ListSpec, operation: Aggregation) -> dict[str, object]:
    field = operation.field
    if field is None or operation.function == "count":
        return {"$sum": 1}
    path = _path(spec, field)
    if operation.function in ("min", "max") and path != field:
        moment = _value(spec, path)
        with_text = {"moment": moment, "text": _value(spec, field)}
        return {f"${operation.function}": {"$cond": [{"$eq": [moment, None]}, None, with_text]}}
    return {f"${operation.function}": f"${spec.field_path(field)}"}


def _value(spec: ListSpec, field: str) -> dict[str, object]:
    """Return the value of a field, null if the object does not have it."""
    return {"$ifNull": [f"${spec.field_path(field)}", None]}


def _sort_stage(body: AggregateObjects) -> dict[str, int]:
    """Return a total order, so that equal requests give equal rows: groups decide between equal metrics."""
    metrics = {entry.alias: f"m{index}" for index, entry in enumerate(body.aggregations)}
    groups = {entry.name: f"_id.g{index}" for index, entry in enumerate(body.group_by)}
    order = {groups.get(body.sort_by) or metrics[body.sort_by]: body.direction} if body.sort_by is not None else {}
    return order | {path: 1 for path in groups.values() if path not in order}


def _to_row(spec: ListSpec, body: AggregateObjects, row: Mapping[str, Any]) -> Row:
    group = {}
    for index, entry in enumerate(body.group_by):
        value = row["_id"][f"g{index}"]
        group[entry.name] = _to_wire(row[f"t{index}"] if value is not None and f"t{index}" in row else value)
    metrics = {}
    for index, operation in enumerate(body.aggregations):
        value = row[f"m{index}"]
        is_date = operation.field is not None and spec.moments.path(operation.field) is not None
        if is_date and operation.function in ("min", "max") and value is not None:
            value = value["text"]
        metrics[operation.alias] = _to_wire(value)
    return Row(group=group, metrics=metrics)


def _to_wire(value: object) -> object:
    return wire_time(value) if isinstance(value, datetime) else value
