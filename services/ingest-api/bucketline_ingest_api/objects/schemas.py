"""Request and response bodies of the object routes."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue, SkipValidation

from bucketline_ingest_api.documents.schemas import Document
from bucketline_ingest_api.schemas import (
    ErrorBody,
    ListBody,
    Pagination,
    RequestBody,
    ResponseBody,
    Unsupported,
    example,
)

MAX_BLOBS = 1000
MAX_EDGES = 1000
MAX_OBJECTS = 100
MAX_SOFT_DELETED = 5000
MAX_GROUP_FIELDS = 5
MAX_AGGREGATIONS = 20
MAX_GROUPS = 10_000

_CREATE_EXAMPLE = {
    "key_prefix": "/2026/03/A-17",
    "blobs": [
        {"property": "note", "type": "text", "data": "Call the supplier on Friday.", "metadata": {"author": "Ada"}},
        {"property": "photo", "type": "image", "data": {"base64": "iVBORw0KGgo=", "mime_type": "image/png"}},
    ],
    "idempotency_key": "0d6d8a0c-2f51-4b6e-9a7d-4f6a1f0f8f11",
    "sku": "A-17",
    "qty": 4,
}
_BLOB_EXAMPLE = {"property": "note", "type": "text", "data": "Call the supplier on Friday."}
_OBJECT_EXAMPLE = {
    "object_id": "obj_06h2k4v9c3f8m1q7r5tx",
    "bucket_id": "bkt_06h2k4v9c3f8m1q7r5tw",
    "key_prefix": "/2026/03/A-17",
    "blobs": [
        {
            "blob_id": "blob_06h2k4v9c3f8m1q7r5tv",
            "property": "note",
            "type": "text",
            "properties": {"url": "s3://bucketline/blobs/sha256/9f/86/9f86d0", "author": "Ada"},
            "details": {
                "size_bytes": 28,
                "mime_type": "text/plain",
                "hash": "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            },
        }
    ],
    "source_details": [{"type": "bucket", "source_id": "bkt_06h2k4v9c3f8m1q7r5tw"}],
    "status": "DRAFT",
    "created_at": "2026-03-01T09:00:00.000Z",
    "updated_at": "2026-03-01T09:00:00.000Z",
    "sku": "A-17",
    "qty": 4,
}

KeyPrefix = Annotated[str, Field(max_length=1024)]


class Strict(RequestBody):
    """A body whose values must have the right JSON type: neither ``"1"`` for a number nor ``1`` for true."""

    model_config = ConfigDict(strict=True)


class CreateBlob(Strict):
    """A blob with either ``data`` or ``upload_id``."""

    model_config = example(_BLOB_EXAMPLE)

    property: str = Field(min_length=1, max_length=100, description="A property of the bucket's schema.")
    type: str | None = Field(
        default=None,
        max_length=100,
        description="The property's type in the schema, in any case. Optional.",
    )
    data: JsonValue = Field(
        default=None,
        description="A URL, a data URI, {base64, mime_type, filename}, {url}, text, or any other JSON.",
    )
    upload_id: str | None = Field(default=None, min_length=1, max_length=100, description="A confirmed upload.")
    key_prefix: KeyPrefix | None = None
    metadata: dict[str, JsonValue] | None = Field(
        default=None, description="Stored with the blob, and at the object's root unless the name is taken there."
    )
    checksum: str | None = Field(default=None, max_length=300, description="``algorithm:hex``, or 64 hex digits.")
    canonicalize_source: bool | None = None
    force_remirror: bool | None = None


class Edge(Strict):
    """A relation to another object. Additional keys are stored as they are."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(min_length=1, max_length=200)
    target_object_id: str = Field(min_length=1, max_length=200)
    target_collection_id: str | None = Field(default=None, max_length=200)
    direction: Literal["out", "in"] = "out"


class CreateObject(Strict):
    """An object to create. Every other key is a custom field, stored at the object's root."""

    model_config = ConfigDict(extra="allow", **example(_CREATE_EXAMPLE))

    key_prefix: KeyPrefix | None = None
    blobs: list[CreateBlob] | None = Field(default=None, max_length=MAX_BLOBS)
    skip_duplicates: bool = False
    canonicalize_source: bool = True
    force_remirror: bool = False
    edges: list[Edge] | None = Field(default=None, max_length=MAX_EDGES)
    idempotency_key: str | None = Field(default=None, min_length=1, max_length=255)


class CreateObjects(Strict):
    """Objects to create. Each is validated on its own: an invalid one does not stop the others."""

    model_config = example({"objects": [{"blobs": [_BLOB_EXAMPLE]}]})

    objects: list[SkipValidation[CreateObject]] = Field(min_length=1, max_length=MAX_OBJECTS)


class PatchObject(Strict):
    """Fields to change; custom fields are at the root. Fields that are not sent stay."""

    model_config = ConfigDict(extra="allow", **example({"state": "paid", "key_prefix": "/2026/03/paid/A-17"}))

    key_prefix: KeyPrefix | None = None
    skip_duplicates: bool | None = None


class PutObject(PatchObject):
    """Fields to change. Keys of ``metadata`` are changed in the object's ``metadata`` if there, others at the root."""

    model_config = example({"key_prefix": "/2026/03/A-17", "metadata": {"state": "paid"}})

    metadata: dict[str, JsonValue] | None = None


class SoftDelete(RequestBody):
    """Objects to delete. Their records are kept for 30 days, with the reason, but they cannot be restored."""

    model_config = example({"object_ids": ["obj_06h2k4v9c3f8m1q7r5tx"], "reason": "imported twice"})

    object_ids: list[Annotated[str, Field(min_length=1, max_length=100)]] = Field(
        min_length=1, max_length=MAX_SOFT_DELETED
    )
    reason: str = Field(max_length=500)
    lifecycle_state: str | None = Field(default=None, max_length=100, description="`disabled` if left out.")
    source: str | None = Field(default=None, max_length=100, description="`bulk_purge` if left out.")


class SoftDeleted(ResponseBody):
    """Counts of the requested ids, of the objects that were deleted, and of the collections that read the bucket."""

    model_config = example({"soft_deleted": 1, "requested": 1, "collections": 2})

    soft_deleted: int
    requested: int
    collections: int


class BlobDetails(ResponseBody):
    """Details of a blob's bytes. Until the blob is mirrored, ``mime_type`` is the declared type."""

    filename: str | None = None
    size_bytes: int | None = None
    mime_type: str | None = None
    hash: str | None = None


class Blob(ResponseBody):
    """A blob of an object."""

    blob_id: str
    property: str
    type: str
    key_prefix: str | None = None
    properties: dict[str, Any]
    presigned_url: str | None = None
    details: BlobDetails | None = None


class SourceDetail(ResponseBody):
    """Where the object comes from."""

    type: str
    source_id: str


class Consistency(ResponseBody):
    """When the documents of a written object are visible, and how to wait for them."""

    retriever_visible: str
    recommended_header: str | None = None
    write_token_available: bool = False
    expected_visible_within_ms: int | None = None
    poll: dict[str, Any] | None = None
    next_actions: list[dict[str, Any]] | None = None


class ObjectInternal(ResponseBody):
    """Information about the object's latest finished run."""

    warnings: list[str] = Field(
        default_factory=list,
        description="Blobs that were not processed because no collection of the bucket reads their type.",
    )


class StoredObject(ResponseBody):
    """An object with its custom fields at the root. With ``select`` only the listed fields and the ids are included."""

    model_config = ConfigDict(extra="allow", **example(_OBJECT_EXAMPLE))

    object_id: str
    bucket_id: str
    key_prefix: str | None = None
    blobs: list[Blob] = Field(default_factory=list)
    source_details: list[SourceDetail] = Field(default_factory=list)
    edges: list[dict[str, Any]] | None = None
    status: str = "DRAFT"
    error: str | None = None
    created_at: str = ""
    updated_at: str = ""
    document_count: int | None = None
    consistency: Consistency | None = None
    internal: ObjectInternal | None = Field(default=None, alias="_internal", description="Only with warnings.")


class SucceededObject(StoredObject):
    """An object of the request. ``replayed``: it existed already, and nothing was created."""

    object_index: int
    replayed: bool = False
    replayed_by: Literal["idempotency_key", "skip_duplicates"] | None = None


class FailedObject(ResponseBody):
    """An object of the request that was not created."""

    object_index: int
    error: str
    error_type: str


class CreatedObjects(ResponseBody):
    """Results for the objects of the request, in its order."""

    succeeded: list[SucceededObject]
    failed: list[FailedObject]
    total_requested: int
    succeeded_count: int
    failed_count: int


class RefusedObjects(ResponseBody):
    """The body of a 422: the error envelope for an invalid request, or the results if all objects are invalid."""

    success: Literal[False] | None = None
    status: int | None = None
    error: ErrorBody | None = None
    succeeded: list[SucceededObject] | None = None
    failed: list[FailedObject] | None = None
    total_requested: int | None = None
    succeeded_count: int | None = None
    failed_count: int | None = None


class ListObjects(ListBody):
    """How to list objects. Paging fields of the body take precedence over the query."""

    model_config = example(
        {
            "filters": {"AND": [{"field": "state", "operator": "eq", "value": "open"}]},
            "sort": {"field": "created_at", "direction": "desc"},
            "search": "a-17",
            "select": ["status", "sku"],
            "limit": 20,
        }
    )

    select: list[str] | None = Field(default=None, max_length=200, description="Keep these fields and the ids.")
    return_presigned_urls: bool = False


class ObjectStats(ResponseBody):
    """Counts for this page, not for the bucket."""

    total_objects: int
    total_blobs: int
    avg_blobs_per_object: float
    objects_by_status: dict[str, int]


class ObjectList(ResponseBody):
    """A page of objects."""

    results: list[StoredObject]
    pagination: Pagination
    stats: ObjectStats


class ObjectDocuments(ResponseBody):
    """Documents that collections created from the object."""

    object_id: str
    total_documents: int
    documents: list[Document]


FieldPath = Annotated[str, Field(min_length=1, max_length=256)]
Alias = Annotated[str, Field(min_length=1, max_length=256)]


class GroupBy(RequestBody):
    """A field to group by. Objects without it form the group null."""

    field: FieldPath
    alias: Alias | None = Field(default=None, description="Its name in the rows; defaults to the field.")
    date_trunc: Unsupported = None
    date_part: Unsupported = None

    @property
    def name(self) -> str:
        """The key in the rows."""
        return self.alias or self.field


class Aggregation(RequestBody):
    """A metric. ``sum`` and ``avg`` use numbers only; ``min`` and ``max`` ignore null and compare dates as times."""

    function: Literal["count", "sum", "avg", "min", "max"]
    field: FieldPath | None = Field(default=None, description="Not needed for `count`, which counts objects.")
    alias: Alias
    distinct_field: Unsupported = None

    @property
    def name(self) -> str:
        """The key in the rows."""
        return self.alias


class Having(RequestBody):
    """A condition on a metric of a group."""

    field: Alias
    operator: Literal["eq", "ne", "gt", "gte", "lt", "lte"]
    value: Annotated[int, Field(ge=-(2**63), lt=2**63)] | Annotated[float, Field(allow_inf_nan=False)] | str


class AggregateObjects(RequestBody):
    """How to aggregate: ``filters``, then groups with their metrics, then ``having``, ``sort_by`` and ``limit``."""

    model_config = example(
        {
            "group_by": [{"field": "state"}],
            "aggregations": [
                {"function": "count", "alias": "invoices"},
                {"function": "sum", "field": "amount", "alias": "total"},
            ],
            "filters": {"AND": [{"field": "created_at", "operator": "gte", "value": "2026-03-01"}]},
            "sort_by": "total",
            "limit": 20,
        }
    )

    group_by: list[GroupBy] = Field(min_length=1, max_length=MAX_GROUP_FIELDS)
    aggregations: list[Aggregation] = Field(min_length=1, max_length=MAX_AGGREGATIONS)
    filters: dict[str, Any] | None = None
    having: list[Having] | None = Field(default=None, max_length=MAX_AGGREGATIONS)
    unwind: Unsupported = None
    range_buckets: Unsupported = None
    sort_by: Alias | None = Field(default=None, description="A name in the rows; defaults to the groups.")
    sort_direction: Literal["asc", "desc"] | None = Field(default="desc", description="Of `sort_by`.")
    limit: int = Field(default=1000, ge=1, le=MAX_GROUPS)

    @property
    def direction(self) -> int:
        """The sort direction for MongoDB."""
        return 1 if self.sort_direction == "asc" else -1


class Row(ResponseBody):
    """A group with its metrics."""

    group: dict[str, Any]
    metrics: dict[str, Any]


class Aggregates(ResponseBody):
    """The groups. ``query_info.truncated`` means that there are more than ``limit``."""

    model_config = example(
        {
            "results": [{"group": {"state": "open"}, "metrics": {"invoices": 12, "total": 3400.5}}],
            "total_groups": 1,
            "query_info": {"limit": 20, "truncated": False},
        }
    )

    results: list[Row]
    total_groups: int
    query_info: dict[str, Any]
