"""Bodies of the batch routes."""

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from bucketline.domain.field_validation import free_form_faults
from bucketline.domain.status import Status
from bucketline_ingest_api.schemas import (
    ListBody,
    Pagination,
    RequestBody,
    ResponseBody,
    Timestamp,
    Unsupported,
    example,
)

MAX_OBJECTS = 50_000
ObjectId = Annotated[str, Field(min_length=1, max_length=100)]
Identifier = Annotated[str, Field(min_length=1, max_length=200)]

DedupStrategy = Literal["skip", "replace", "force"]


class BatchBody(RequestBody):
    """What several bodies have in common: metadata that can be kept as it was sent."""

    @field_validator("metadata", mode="after", check_fields=False)
    @classmethod
    def _storable(cls, value: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
        for fault in free_form_faults(value or {}, ()):
            raise ValueError(str(fault["message"]))
        return value


class CreateBatch(BatchBody):
    """Objects by id or by filter, not both."""

    model_config = example({"object_ids": ["obj_06h2v9k1m3q5s7t9v1x3"], "batch_name": "nightly-2026-03-01"})

    object_ids: list[ObjectId] | None = Field(default=None, min_length=1, max_length=MAX_OBJECTS)
    filters: dict[str, JsonValue] | None = None
    limit: int | None = Field(default=None, ge=1, le=MAX_OBJECTS, description="Most objects taken by `filters`.")
    collection_ids: list[Identifier] | None = Field(
        default=None, max_length=100, description="Ids or names; left out, all collections that read the bucket."
    )
    dedup_strategy: DedupStrategy = "skip"
    metadata: dict[str, JsonValue] | None = None
    batch_name: str | None = Field(default=None, max_length=256)
    auto_submit: bool | None = None
    trigger_processing: bool | None = Field(default=None, description="Alias for `auto_submit`.")

    @model_validator(mode="after")
    def _one_of(self) -> "CreateBatch":
        if (self.object_ids is None) == (self.filters is None):
            raise ValueError("name the objects by object_ids or by filters, and not by both")
        return self


class AddObjects(RequestBody):
    model_config = example({"object_ids": ["obj_06h2v9k1m3q5s7t9v1x3"]})

    object_ids: list[ObjectId] = Field(min_length=1, max_length=MAX_OBJECTS)


class UpdateBatch(BatchBody):
    """Nothing but the metadata of a batch can change; what is sent replaces it."""

    model_config = example({"metadata": {"campaign_id": "q1"}})

    metadata: dict[str, JsonValue] | None = None


class SubmitBatch(RequestBody):
    """All of it optional, and so is the body."""

    model_config = example({"include_processing_history": True, "webhook_url": "https://hooks.example.com/batches"})

    include_processing_history: bool = Field(
        default=True, description="Of enrichments, which there are none of here: documents are the same either way."
    )
    collection_ids: list[Identifier] | None = Field(default=None, max_length=100)
    webhook_url: str | None = Field(
        default=None,
        max_length=2048,
        pattern=r"^[hH][tT][tT][pP][sS]?://[!-~]+$",
        description="Called once, when the batch is over.",
    )


class RetryBatch(RequestBody):
    """Which failed objects are taken up again, in every tier."""

    model_config = example({"retry_mode": "transient_only", "max_retry_count": 3})

    retry_mode: Literal["transient_only", "all"] = "transient_only"
    tier_nums: Unsupported = None
    max_retry_count: int = Field(default=3, ge=1, le=10)


class ResubmitBatch(RequestBody):
    model_config = example({"auto_submit": True})

    auto_submit: bool | None = None
    trigger_processing: bool | None = None


class BulkSubmit(RequestBody):
    """All of it optional, and so is the body: without ``filters``, every object of the bucket."""

    model_config = example({"chunk_size": 20000, "dedup_strategy": "skip"})

    collection_ids: list[Identifier] | None = Field(default=None, max_length=100)
    filters: dict[str, JsonValue] | None = None
    chunk_size: int = Field(default=1000, ge=1, le=MAX_OBJECTS, description="Objects of a batch.")
    dedup_strategy: DedupStrategy | None = None
    max_objects: int | None = Field(default=None, ge=1, description="The oldest ones; all if left out.")


class ListBatches(ListBody):
    """The body of a list of batches."""

    status: Status | None = None
    collection_id: str | None = Field(default=None, max_length=200)
    bucket_id: str | None = Field(default=None, max_length=200)
    namespace_id: str | None = Field(default=None, max_length=200, description="Id or name; only without a bucket.")


_BATCH = {
    "batch_id": "btch_06h2v9k1m3q5s7t9v1x3",
    "bucket_id": "bkt_06h2k4v9c3f8m1q7r5tw",
    "namespace_id": "ns_06h2k4v9c3f8m1q7r5tv",
    "batch_name": "nightly-2026-03-01",
    "status": "COMPLETED",
    "object_ids": ["obj_06h2v9k1m3q5s7t9v1x3"],
    "dedup_strategy": "skip",
    "collection_ids": ["col_06h2k4v9c3f8m1q7r5tq"],
    "type": "BUCKET",
    "metadata": {"source": "nightly"},
    "task_id": "task_06h2v9k1m3q5s7t9v1x4",
    "tier_tasks": [],
    "current_tier": 0,
    "total_tiers": 1,
    "dag_tiers": [["col_06h2k4v9c3f8m1q7r5tq"]],
    "progress": {"processed": 1, "total": 1, "percent": 100.0, "errors": 0, "documents_written": 1},
    "documents_written": 1,
    "documents_resolvable": True,
    "failed_objects": [],
    "failed_object_count": 0,
    "retry_count": 0,
    "max_retries": 3,
    "max_node_death_resubmits": 0,
    "max_deploy_resubmits": 0,
    "created_at": "2026-03-01T09:00:00.000Z",
    "updated_at": "2026-03-01T09:00:05.250Z",
}


class BatchProgress(ResponseBody):
    processed: int
    total: int
    percent: float
    items_per_second: float | None = None
    eta_seconds: float | None = None
    errors: int = 0
    first_error: str | None = None
    documents_written: int = 0


class FailedObjectRow(ResponseBody):
    object_id: str
    error: str
    error_type: Literal["transient", "permanent", "resource"]
    timestamp: Timestamp


class TierTask(ResponseBody):
    tier_num: int
    task_id: str
    status: Status
    collection_ids: list[str] = Field(min_length=1)
    source_type: Literal["bucket", "collection"] = "bucket"
    started_at: Timestamp | None = None
    completed_at: Timestamp | None = None
    duration_ms: float | None = None
    audit: dict[str, Any] | None = None


class Batch(ResponseBody):
    """A batch. `documents_resolvable`: it is over, and its documents can be read."""

    model_config = example(_BATCH)

    batch_id: str
    bucket_id: str
    namespace_id: str
    batch_name: str | None = None
    status: Status
    object_ids: list[str]
    dedup_strategy: DedupStrategy
    collection_ids: list[str]
    type: Literal["BUCKET"] = "BUCKET"
    metadata: dict[str, JsonValue]
    task_id: str | None = None
    tier_tasks: list[TierTask]
    current_tier: int | None = None
    total_tiers: int = Field(default=1, ge=1)
    dag_tiers: list[list[str]]
    progress: BatchProgress | None = None
    documents_written: int = Field(
        default=0, description="Written by this batch, retries included; not what its objects had before."
    )
    documents_resolvable: bool = False
    failure_reason: str | None = None
    failure_category: str | None = None
    failed_objects: list[FailedObjectRow]
    failed_object_count: int = 0
    webhook_url: str | None = None
    retry_count: int = 0
    max_retries: int = 3
    last_retry_at: Timestamp | None = None
    max_node_death_resubmits: int = 0
    max_deploy_resubmits: int = 0
    last_activity_at: Timestamp | None = None
    lifecycle: str | None = None
    lifecycle_reason: str | None = None
    error_summary: dict[str, int] | None = None
    created_at: Timestamp
    updated_at: Timestamp


class BatchList(ResponseBody):
    """`object_ids` of a row are the first 100; the batch alone has all of them, and `progress.total` counts."""

    results: list[Batch]
    total_count: int
    pagination: Pagination


class Retry(ResponseBody):
    """`retried_count` 0: nothing of that kind failed, and the batch stays as it is."""

    model_config = example(
        {
            "batch_id": "btch_06h2v9k1m3q5s7t9v1x3",
            "task_id": "task_06h2v9k1m3q5s7t9v1x4",
            "status": "PENDING",
            "retry_mode": "transient_only",
            "retried_count": 3,
            "retry_count": 1,
            "max_retry_count": 3,
            "message": "3 objects are taken up again",
        }
    )

    batch_id: str
    task_id: str
    status: Status
    retry_mode: Literal["transient_only", "all"]
    retried_count: int
    retry_count: int
    max_retry_count: int
    message: str


class Resubmission(ResponseBody):
    model_config = example(
        {
            "batch_id": "btch_06h2v9k1m3q5s7t9v1x3",
            "task_id": "task_06h2v9k1m3q5s7t9v1x4",
            "status": "PENDING",
            "previous_status": "FAILED",
            "object_count": 12,
            "message": "the batch is processed again",
        }
    )

    batch_id: str
    task_id: str | None = None
    status: Status
    previous_status: Status
    object_count: int
    message: str


class SubmittedBatch(ResponseBody):
    """``error``: why the batch was not submitted; it stays a draft then."""

    batch_id: str
    status: Status
    object_count: int
    task_id: str | None = None
    queue_position: int | None = None
    error: str | None = None


class SubmittedDrafts(ResponseBody):
    """``empty`` drafts have no objects and stay. ``has_more``: ask again for the drafts that are left."""

    model_config = example(
        {
            "submitted": 1,
            "failed": 0,
            "empty": 0,
            "total": 1,
            "has_more": False,
            "batches": [{"batch_id": "btch_06h2v9k1m3q5s7t9v1x3", "status": "PENDING", "object_count": 12}],
            "message": "1 batches were submitted",
        }
    )

    submitted: int
    failed: int
    empty: int
    total: int
    has_more: bool
    batches: list[SubmittedBatch]
    message: str


class BulkSubmitted(ResponseBody):
    """``batch_group_id`` is in the metadata of every batch: list them by ``metadata.batch_group_id``."""

    model_config = example(
        {
            "batch_group_id": "btch_06h2v9k1m3q5s7t9v1x2",
            "total_objects": 12,
            "total_batches": 1,
            "submitted": 1,
            "failed": 0,
            "chunk_size": 1000,
            "batches": [{"batch_id": "btch_06h2v9k1m3q5s7t9v1x3", "status": "PENDING", "object_count": 12}],
        }
    )

    batch_group_id: str
    total_objects: int
    total_batches: int
    submitted: int
    failed: int
    chunk_size: int
    batches: list[SubmittedBatch]


class FailedDocument(ResponseBody):
    """An object that failed; `collection_ids` are those that its error names."""

    object_id: str
    document_id: str | None = None
    collection_ids: list[str]
    tier_num: int | None = None
    error: str
    error_type: Literal["transient", "permanent", "resource"]
    timestamp: Timestamp


class FailedDocuments(ResponseBody):
    model_config = example(
        {
            "batch_id": "btch_06h2v9k1m3q5s7t9v1x3",
            "results": [
                {
                    "object_id": "obj_06h2v9k1m3q5s7t9v1x3",
                    "document_id": None,
                    "collection_ids": ["col_06h2k4v9c3f8m1q7r5tq"],
                    "tier_num": 0,
                    "error": "invoices-text: not a PDF",
                    "error_type": "permanent",
                    "timestamp": "2026-03-01T09:00:05.250Z",
                }
            ],
            "total": 1,
            "limit": 100,
            "offset": 0,
        }
    )

    batch_id: str
    results: list[FailedDocument]
    total: int
    limit: int
    offset: int


class BatchAudit(ResponseBody):
    """Audit of a batch. Every object is counted in exactly one of the places below `submitted`.

    `from_sums`: what became of each object is known for 30 days; this is what the batch counted when it was over,
    `completed` with those that were skipped.
    """

    model_config = example(
        {
            "batch_id": "btch_06h2v9k1m3q5s7t9v1x3",
            "status": "COMPLETED",
            "all_balanced": True,
            "has_lost_objects": False,
            "submitted": 2,
            "processed": 2,
            "completed": 2,
            "failed": 0,
            "skipped": 0,
            "given_back": 0,
            "in_flight": 0,
            "waiting": 0,
            "unplanned": 0,
            "deleted": 0,
            "lost": 0,
            "lost_object_ids": [],
            "from_sums": False,
            "tiers": [],
        }
    )

    batch_id: str
    status: Status
    all_balanced: bool
    has_lost_objects: bool
    submitted: int
    processed: int
    completed: int
    failed: int
    skipped: int
    given_back: int
    in_flight: int
    waiting: int
    unplanned: int
    deleted: int
    lost: int
    lost_object_ids: list[str]
    from_sums: bool = False
    tiers: list[dict[str, Any]]
