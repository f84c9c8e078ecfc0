"""Sums over the objects of a bucket: grouped, filtered, sorted and cut off by MongoDB, within the time of a search."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from bucketline.clock import wire_time
from bucketline.db.buckets import BucketDocument
from bucketline.domain.sorting import path_fault
from bucketline.errors import ValidationFailed, ValidationIssue
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.aggregate_schemas import AggregateObjects, Aggregates, Aggregation, Row
from bucketline_ingest_api.objects.listing import kind_of
from bucketline_ingest_api.pagination import ListSpec, selection
from bucketline_ingest_api.search_timeout import search_timeout


async def aggregate_objects(deps: Container, bucket: BucketDocument, body: AggregateObjects) -> Aggregates:
    """One row for each group, at most ``body.limit`` of them."""
    kind = kind_of(bucket)
    _refuse_faulty(body)
    fields = [group.field for group in body.group_by] + [operation.field or "" for operation in body.aggregations]
    paths = [_path(kind, field) for field in fields]
    selected = selection({"bucket_id": bucket["_id"]}, kind, body.filters, order=paths)
    pipeline: list[Mapping[str, object]] = [{"$set": selected.computed}] if selected.computed else []
    pipeline += [{"$match": selected.where}, {"$group": _group(kind, body)}]
    if body.having:
        names = {asked.alias: f"m{place}" for place, asked in enumerate(body.aggregations)}
        conditions = [{names[having.field]: {f"${having.operator}": having.value}} for having in body.having]
        pipeline.append({"$match": {"$and": conditions}})
    pipeline += [{"$sort": _order(body)}, {"$limit": body.limit + 1}]
    with search_timeout():
        rows = await deps.objects.collection.aggregate(pipeline, limit=body.limit + 1)
    shown = [_row(kind, body, row) for row in rows[: body.limit]]
    truncated = len(rows) > body.limit
    return Aggregates(results=shown, total_groups=len(shown), query_info={"limit": body.limit, "truncated": truncated})


def _refuse_faulty(body: AggregateObjects) -> None:
    """What no model can say: paths, names that are used twice or not at all, functions without a field."""
    faults = []
    lists: dict[str, list[Any]] = {"group_by": list(body.group_by), "aggregations": list(body.aggregations)}
    for name, entries in lists.items():
        aliases: set[str] = set()
        for place, asked in enumerate(entries):
            at = ("body", name, place)
            if asked.name in aliases:
                faults.append(
                    ValidationIssue("duplicate", (*at, "alias"), f"{asked.name!r} is the name of another one")
                )
            aliases.add(asked.name)
            if asked.field is None:
                if asked.function != "count":
                    faults.append(ValidationIssue("missing", (*at, "field"), f"{asked.function} needs a field"))
            elif (reason := _field_fault(asked.field)) is not None:
                faults.append(ValidationIssue("field_path", (*at, "field"), reason))
    metrics = {asked.alias for asked in body.aggregations}
    for place, having in enumerate(body.having or ()):
        if having.field not in metrics:
            faults.append(
                ValidationIssue("enum", ("body", "having", place, "field"), "not the alias of an aggregation")
            )
    if body.sort_by is not None and body.sort_by not in metrics | {asked.name for asked in body.group_by}:
        faults.append(ValidationIssue("enum", ("body", "sort_by"), "neither an alias of an aggregation nor grouped by"))
    if faults:
        raise ValidationFailed(faults)


def _field_fault(field: str) -> str | None:
    if any(part.isdigit() for part in field.split(".")):
        return "a position in an array cannot be aggregated"
    return path_fault(field)


def _path(kind: ListSpec, field: str) -> str:
    """The name under which the server compares a field: dates are compared as moments."""
    return kind.moments.path(field) or field


def _group(kind: ListSpec, body: AggregateObjects) -> dict[str, object]:
    stage: dict[str, object] = {
        "_id": {f"g{place}": _value(kind, _path(kind, asked.field)) for place, asked in enumerate(body.group_by)}
    }
    for place, asked in enumerate(body.group_by):
        if kind.moments.path(asked.field) is not None:
            # one moment may have been written in several ways
            stage[f"t{place}"] = {"$min": _value(kind, asked.field)}
    for place, operation in enumerate(body.aggregations):
        stage[f"m{place}"] = _accumulator(kind, operation)
    return stage


def _accumulator(kind: ListSpec, operation: Aggregation) -> dict[str, object]:
    field = operation.field
    if field is None or operation.function == "count":
        return {"$sum": 1}
    path = _path(kind, field)
    if operation.function in ("min", "max") and path != field:
        moment = _value(kind, path)
        dated = {"moment": moment, "text": _value(kind, field)}
        return {f"${operation.function}": {"$cond": [{"$eq": [moment, None]}, None, dated]}}
    return {f"${operation.function}": f"${kind.field_path(field)}"}


def _value(kind: ListSpec, field: str) -> dict[str, object]:
    """A field of an object, null where it has none."""
    return {"$ifNull": [f"${kind.field_path(field)}", None]}


def _order(body: AggregateObjects) -> dict[str, int]:
    """Total, so that the same request gives the same rows: the groups follow where metrics are equal."""
    metrics = {asked.alias: f"m{place}" for place, asked in enumerate(body.aggregations)}
    groups = {asked.name: f"_id.g{place}" for place, asked in enumerate(body.group_by)}
    order = {groups.get(body.sort_by) or metrics[body.sort_by]: body.direction} if body.sort_by is not None else {}
    return order | {path: 1 for path in groups.values() if path not in order}


def _row(kind: ListSpec, body: AggregateObjects, row: Mapping[str, Any]) -> Row:
    group = {}
    for place, asked in enumerate(body.group_by):
        value = row["_id"][f"g{place}"]
        group[asked.name] = _shown(row[f"t{place}"] if value is not None and f"t{place}" in row else value)
    metrics = {}
    for place, operation in enumerate(body.aggregations):
        value = row[f"m{place}"]
        dated = operation.field is not None and kind.moments.path(operation.field) is not None
        if dated and operation.function in ("min", "max") and value is not None:
            value = value["text"]
        metrics[operation.alias] = _shown(value)
    return Row(group=group, metrics=metrics)


def _shown(value: object) -> object:
    return wire_time(value) if isinstance(value, datetime) else value
