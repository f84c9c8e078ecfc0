"""Lists of objects: filters, search, order and page within one bucket."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice

from bucketline.db.buckets import BucketDocument
from bucketline.db.objects import ObjectDocument
from bucketline.domain.moments import MOMENTS, Moments
from bucketline.domain.paging import OBJECTS
from bucketline.domain.schema import properties
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.schemas import ListObjects
from bucketline_ingest_api.pagination import OLDEST_FIRST, ListSpec, Page, field_mapper, list_rows
from bucketline_ingest_api.schemas import ListQuery, SortSpec

KIND = ListSpec(
    bounds=OBJECTS,
    field_path=field_mapper(
        {
            "object_id": "_id",
            "bucket_id": "bucket_id",
            "namespace_id": "namespace_id",
            "key_prefix": "key_prefix",
            "blobs": "blobs",
            "edges": "edges",
            "status": "status",
            "error": "error",
            "created_at": "created_at",
            "updated_at": "updated_at",
            "document_count": "document_count",
            "idempotency_key": "idempotency_keys",
            MOMENTS: MOMENTS,
        },
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

MAX_SEARCHED = 100
SEARCH_DEPTH = 3


async def list_objects(
    deps: Container, bucket: BucketDocument, asked: ListQuery, body: ListObjects | None
) -> Page[ObjectDocument]:
    """Objects of the bucket, oldest first."""
    if body is not None:
        body = body.model_copy(update={"sort": _by_index(body.sort)})
    kind = replace(kind_of(bucket), search=partial(_search, bucket))
    return await list_rows(deps.objects.collection, {"bucket_id": bucket["_id"]}, kind, asked, body)


def kind_of(bucket: BucketDocument) -> ListSpec:
    """How objects of this bucket are searched: its schema says which of their fields are dates."""
    return replace(KIND, moments=Moments(bucket["schema"]))


def _by_index(sort: SortSpec | list[SortSpec] | None) -> SortSpec | list[SortSpec] | None:
    """Objects of one status follow each other by creation: this is the order that the index has."""
    only = sort[0] if isinstance(sort, list) and len(sort) == 1 else sort
    if isinstance(only, SortSpec) and only.field == "status":
        return [only, SortSpec(field="created_at", direction=only.direction)]
    return sort


def _search(bucket: BucketDocument, pattern: str) -> Mapping[str, object]:
    """Objects that hold the pattern in their key, in text at their root, or in a field that the schema declares."""
    declared = islice(_paths(properties(bucket["schema"]), "custom", SEARCH_DEPTH), MAX_SEARCHED)
    here = {"$regex": pattern}
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
    return {"$or": [{"_id": here}, {"key_prefix": here}, *({path: here} for path in declared), {"$expr": at_root}]}


def _paths(declared: Mapping[str, Mapping[str, object]], above: str, depth: int) -> Iterator[str]:
    """Stored paths of declared fields that hold text, also in objects and arrays."""
    for name, field in declared.items():
        path = f"{above}.{name}"
        items = field.get("items")
        inner = items if field["type"] == "array" and isinstance(items, dict) else field
        if inner["type"] in ("string", "text", "date", "datetime", "array"):
            yield path
        elif inner["type"] == "object" and depth > 1:
            yield from _paths(properties(inner), path, depth - 1)
