"""Request and response bodies of the bucket endpoints."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from bucketline.db.buckets import BucketDocument, BucketStats
from bucketline.domain.status import Status
from bucketline_ingest_api.schemas import (
    ListResponse,
    Name,
    Pagination,
    RequestBody,
    ResponseBody,
    Timestamp,
    Unsupported,
    example,
)

FieldType = Literal[
    "string",
    "number",
    "integer",
    "float",
    "boolean",
    "object",
    "array",
    "date",
    "datetime",
    "text",
    "image",
    "audio",
    "video",
    "pdf",
    "excel",
]
StorageClass = Literal["standard", "nearline", "coldline", "archive"]

_SCHEMA = {
    "properties": {
        "invoice": {"type": "pdf", "description": "scanned invoice", "required": True},
        "sku": {"type": "string", "required": True},
        "qty": {"type": "integer", "default": 1},
    }
}


class SchemaField(RequestBody):
    """A property of a schema. Additional keys are kept."""

    model_config = ConfigDict(extra="allow")

    type: FieldType
    required: bool | None = None
    default: Any = None
    enum: list[Any] | None = None
    description: str | None = None
    examples: list[Any] | None = None
    items: "SchemaField | None" = None
    properties: "dict[str, SchemaField] | None" = None


class BucketSchema(RequestBody):
    """Declares the fields and files of a bucket's objects."""

    model_config = ConfigDict(extra="allow", **example(_SCHEMA))

    properties: dict[str, SchemaField]


class UniqueKeyConfig(RequestBody):
    """Names the fields that identify an object of the bucket."""

    fields: list[str] = Field(min_length=1, max_length=10)
    default_policy: Literal["insert", "update", "upsert"] | None = None


class BatchingPolicy(RequestBody):
    """Submits drafts automatically, in batches, when the first of these limits is reached."""

    max_objects: int = Field(default=1000, ge=1, le=50_000)
    max_bytes: int = Field(default=1024**3, ge=1, le=1024**4)
    max_wait_seconds: float = Field(default=30.0, gt=0, le=7 * 24 * 3600, allow_inf_nan=False)


class BucketSettings(RequestBody):
    """If ``batching`` is null, drafts wait for an explicit batch."""

    batching: BatchingPolicy | None = None


class CreateBucket(RequestBody):
    """Features of the managed service only (``destination``, ``ingest_filter``, ``source_adapter``) are rejected."""

    model_config = example(
        {
            "bucket_name": "invoices",
            "description": "Invoices by SKU",
            "bucket_schema": _SCHEMA,
            "unique_key": {"fields": ["sku"], "default_policy": "upsert"},
            "metadata": {"team": "ap"},
        }
    )

    bucket_name: Name
    bucket_schema: BucketSchema
    unique_key: UniqueKeyConfig | None = None
    description: str | None = Field(default=None, max_length=5000)
    metadata: dict[str, Any] | None = None
    storage_class: StorageClass | None = None
    settings: BucketSettings | None = None
    destination: Unsupported = None
    ingest_filter: Unsupported = None
    source_adapter: Unsupported = None


class UpdateBucket(RequestBody):
    """Only the fields that are sent change. ``fields`` of the unique key must be repeated and cannot change."""

    model_config = example({"description": "Invoices of 2026", "metadata": {"team": "ap"}})

    bucket_name: Name | None = None
    bucket_schema: BucketSchema | None = None
    unique_key: UniqueKeyConfig | None = None
    description: str | None = Field(default=None, max_length=5000)
    metadata: dict[str, Any] | None = None
    storage_class: StorageClass | None = None
    settings: BucketSettings | None = None
    is_locked: bool | None = Field(default=None, description="A locked bucket rejects writes.")
    destination: Unsupported = None
    ingest_filter: Unsupported = None
    source_adapter: Unsupported = None


class BatchStats(ResponseBody):
    """Counts the batches of a bucket by state."""

    total: int = 0
    active: int = 0
    completed: int = 0
    failed: int = 0


class StorageStats(ResponseBody):
    """Sums the sizes of the blobs of a bucket's objects."""

    total_size_bytes: int = 0
    avg_size_bytes: int = 0
    max_size_bytes: int = 0
    min_size_bytes: int = 0


class Bucket(ResponseBody):
    """A bucket with its statistics."""

    model_config = example(
        {
            "bucket_id": "bkt_06h2k4v9c3f8m1q7r5tw",
            "bucket_name": "invoices",
            "description": "Invoices by SKU",
            "bucket_schema": _SCHEMA,
            "unique_key": {"fields": ["sku"], "default_policy": "upsert"},
            "metadata": {"team": "ap"},
            "storage_class": "standard",
            "settings": {"batching": None},
            "object_count": 2,
            "failed_object_count": 0,
            "total_size_bytes": 20480,
            "status": "ACTIVE",
            "is_locked": False,
            "batch_stats": {"total": 1, "active": 0, "completed": 1, "failed": 0},
            "storage_stats": {
                "total_size_bytes": 20480,
                "avg_size_bytes": 10240,
                "max_size_bytes": 16384,
                "min_size_bytes": 4096,
            },
            "created_at": "2026-03-01T09:00:00.000Z",
            "updated_at": "2026-03-01T09:00:05.250Z",
            "last_upload_at": "2026-03-01T09:00:05.250Z",
            "stats_updated_at": "2026-03-01T09:00:05.250Z",
        }
    )

    bucket_id: str
    bucket_name: str
    description: str | None = None
    bucket_schema: dict[str, Any]
    unique_key: dict[str, Any] | None = None
    metadata: dict[str, Any]
    storage_class: str
    settings: dict[str, Any]
    object_count: int
    failed_object_count: int
    total_size_bytes: int
    created_at: Timestamp
    updated_at: Timestamp
    last_upload_at: Timestamp | None = None
    stats_updated_at: Timestamp | None = None
    status: str
    is_locked: bool
    batch_stats: BatchStats
    storage_stats: StorageStats

    @classmethod
    def of(cls, bucket: BucketDocument, stats: BucketStats) -> "Bucket":
        """Return the response for a stored bucket. Fields of the same name are copied."""
        objects, size = stats["objects"], stats["total_size"]
        return cls.model_validate(
            {
                **bucket,
                "bucket_id": bucket["_id"],
                "bucket_name": bucket["name"],
                "bucket_schema": bucket["schema"],
                "settings": {"batching": bucket["settings"].get("batching")},
                "object_count": objects,
                "failed_object_count": stats["failed_objects"],
                "total_size_bytes": size,
                "last_upload_at": stats["last_object_at"],
                "stats_updated_at": stats["at"],
                "status": Status.IN_PROGRESS if bucket.get("deleting") else Status.ACTIVE,
                "is_locked": bucket.get("is_locked", False),
                "batch_stats": stats["batches"],
                "storage_stats": StorageStats(
                    total_size_bytes=size,
                    avg_size_bytes=size // objects if objects else 0,
                    max_size_bytes=stats["max_size"],
                    min_size_bytes=stats["min_size"],
                ),
            }
        )


class BucketListStats(ResponseBody):
    """Sums over a page of buckets."""

    total_objects: int = 0
    total_size_bytes: int = 0
    avg_objects_per_bucket: float = 0.0
    avg_size_per_bucket: float = 0.0


class BucketList(ListResponse):
    """A page of buckets; ``stats`` covers the buckets of this page."""

    results: list[Bucket]
    stats: BucketListStats

    @classmethod
    def of(cls, results: list[Bucket], total: int, pagination: Pagination) -> "BucketList":
        """Return the response for a page of buckets."""
        objects = sum(bucket.object_count for bucket in results)
        size = sum(bucket.total_size_bytes for bucket in results)
        stats = BucketListStats(
            total_objects=objects,
            total_size_bytes=size,
            avg_objects_per_bucket=objects / len(results) if results else 0.0,
            avg_size_per_bucket=size / len(results) if results else 0.0,
        )
        return cls(results=results, total_count=total, pagination=pagination, stats=stats)


class BucketDeletion(ResponseBody):
    """Names the task that deletes the bucket and everything in it."""

    task_id: str
    task_type: str = "api_buckets_delete"
    status: str
    bucket_id: str
    bucket_name: str
    object_count: int
