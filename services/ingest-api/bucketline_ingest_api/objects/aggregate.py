"""Aggregates the objects of a bucket with one MongoDB pipeline, within the time limit of a search."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from bucketline.clock import wire_time
from bucketline.db.buckets import BucketDocument
from bucketline.domain.keyset import path_fault
from bucketline.errors import ValidationFailed, ValidationIssue
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.schemas import AggregateObjects, Aggregates, Aggregation, Row
from bucketline_ingest_api.objects.service import list_spec
from bucketline_ingest_api.pagination import ListSpec, search_timeout, select_rows


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
