"""Request and response bodies of the batch endpoints."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from bucketline.db.batches import BatchDocument, objects_to_process
from bucketline.db.collections import CollectionDocument
from bucketline.domain.field_validation import free_form_faults
from bucketline.domain.status import BATCH_ACTIVE, FINAL, Status, percent
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
    """Base of bodies with metadata, which must be storable as it was sent."""

    @field_validator("metadata", mode="after", check_fields=False)
    @classmethod
    def _storable(cls, value: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
        for fault in free_form_faults(value or {}, ()):
            raise ValueError(str(fault["message"]))
        return value


class CreateBatch(BatchBody):
    """Creates a batch of objects, given either by id or by filters."""

    model_config = example({"object_ids": ["obj_06h2v9k1m3q5s7t9v1x3"], "batch_name": "nightly-2026-03-01"})

    object_ids: list[ObjectId] | None = Field(default=None, min_length=1, max_length=MAX_OBJECTS)
    filters: dict[str, JsonValue] | None = None
    limit: int | None = Field(
        default=None, ge=1, le=MAX_OBJECTS, description="Limit on the objects that `filters` select."
    )
    collection_ids: list[Identifier] | None = Field(
        default=None, max_length=100, description="Ids or names; by default all collections that read the bucket."
    )
    dedup_strategy: DedupStrategy = "skip"
    metadata: dict[str, JsonValue] | None = None
    batch_name: str | None = Field(default=None, max_length=256)
    auto_submit: bool | None = None
    trigger_processing: bool | None = Field(default=None, description="Alias for `auto_submit`.")

    @model_validator(mode="after")
    def _one_of(self) -> "CreateBatch":
        if (self.object_ids is None) == (self.filters is None):
            raise ValueError("give either object_ids or filters")
        return self


class AddObjects(RequestBody):
    """Adds objects to a draft."""

    model_config = example({"object_ids": ["obj_06h2v9k1m3q5s7t9v1x3"]})

    object_ids: list[ObjectId] = Field(min_length=1, max_length=MAX_OBJECTS)


class UpdateBatch(BatchBody):
    """Replaces the metadata; nothing else of a batch can change."""

    model_config = example({"metadata": {"campaign_id": "q1"}})

    metadata: dict[str, JsonValue] | None = None


class SubmitBatch(RequestBody):
    """Options of a submission; the body is optional."""

    model_config = example({"include_processing_history": True, "webhook_url": "https://hooks.example.com/batches"})

    include_processing_history: bool = Field(
        default=True, description="Accepted without effect: there are no enrichments."
    )
    collection_ids: list[Identifier] | None = Field(default=None, max_length=100)
    webhook_url: str | None = Field(
        default=None,
        max_length=2048,
        pattern=r"^[hH][tT][tT][pP][sS]?://[!-~]+$",
        description="Called once, when the batch has finished.",
    )


class RetryBatch(RequestBody):
    """Selects which failed objects are retried, in every tier."""

    model_config = example({"retry_mode": "transient_only", "max_retry_count": 3})

    retry_mode: Literal["transient_only", "all"] = "transient_only"
    tier_nums: Unsupported = None
    max_retry_count: int = Field(default=3, ge=1, le=10)


class ResubmitBatch(RequestBody):
    """Options of a resubmission; submitted unless one of these is false."""

    model_config = example({"auto_submit": True})

    auto_submit: bool | None = None
    trigger_processing: bool | None = None


class BulkSubmit(RequestBody):
    """Options of a bulk submission; the body is optional. Without ``filters``, the whole bucket is submitted."""

    model_config = example({"chunk_size": 20000, "dedup_strategy": "skip"})

    collection_ids: list[Identifier] | None = Field(default=None, max_length=100)
    filters: dict[str, JsonValue] | None = None
    chunk_size: int = Field(default=1000, ge=1, le=MAX_OBJECTS, description="Objects per batch.")
    dedup_strategy: DedupStrategy | None = None
    max_objects: int | None = Field(
        default=None, ge=1, description="Submit only this many, the oldest; by default all."
    )


class ListBatches(ListBody):
    """Filters, sorts and pages a list of batches."""

    status: Status | None = None
    collection_id: str | None = Field(default=None, max_length=200)
    bucket_id: str | None = Field(default=None, max_length=200)
    namespace_id: str | None = Field(
        default=None, max_length=200, description="Id or name; only for lists across buckets."
    )


_BATCH = {
    "batch_id": "btch_06h2v9k1m3q5s7t9v1x3",
    "bucket_id": "bkt_06h2k4v9c3f8m1q7r5tw",
    "namespace_id": "ns_06h2k4v9c3f8m1q7r5tv",
    "batch_name": "nightly-2026-03-01",
    "status": "COMPLETED",
    "object_ids": ["obj_06h2v9k1m3q5s7t9v1x3"],
    "dedup_strategy": "skip",
    "collection_ids": ["col_06h2k4v9c3f8m1q7r5tq"],
    "metadata": {"source": "nightly"},
    "task_id": "task_06h2v9k1m3q5s7t9v1x4",
    "total_tiers": 1,
    "dag_tiers": [["col_06h2k4v9c3f8m1q7r5tq"]],
    "progress": {"processed": 1, "total": 1, "percent": 100.0, "errors": 0, "documents_written": 1},
    "documents_written": 1,
    "failed_objects": [],
    "created_at": "2026-03-01T09:00:00.000Z",
    "updated_at": "2026-03-01T09:00:05.250Z",
}


class BatchProgress(ResponseBody):
    """Shows how far the current run of a batch is."""

    processed: int
    total: int
    percent: float
    items_per_second: float | None = None
    eta_seconds: float | None = None
    errors: int = 0
    first_error: str | None = None
    documents_written: int = 0

    @classmethod
    def of(cls, batch: BatchDocument, now: datetime) -> "BatchProgress":
        """Return the progress of a submitted batch; speed and remaining time are those of its current run."""
        total, processed = objects_to_process(batch), batch.get("processed", 0)
        carried, started = batch.get("base"), batch.get("started_at")
        in_run = processed - (carried["finished"] if carried else 0)
        rate = eta = None
        if started and in_run > 0:
            rate = round(in_run / max(0.001, ((batch.get("completed_at") or now) - started).total_seconds()), 3)
            if batch["status"] in BATCH_ACTIVE and rate > 0:
                eta = round(max(0, total - processed) / rate, 1)
        return cls(
            processed=processed,
            total=total,
            percent=percent(processed, total),
            items_per_second=rate,
            eta_seconds=eta,
            errors=batch.get("failed", 0),
            first_error=batch.get("first_error"),
            documents_written=batch.get("documents_written", 0),
        )


class FailedObjectRow(ResponseBody):
    """Describes how an object failed."""

    object_id: str
    error: str
    error_type: Literal["transient", "permanent", "resource"]
    timestamp: Timestamp


class TierTask(ResponseBody):
    """Shows the progress of one tier of collections."""

    tier_num: int
    task_id: str
    status: Status
    collection_ids: list[str] = Field(min_length=1)
    source_type: Literal["bucket", "collection"] = "bucket"
    started_at: Timestamp | None = None
    completed_at: Timestamp | None = None
    duration_ms: float | None = None
    audit: dict[str, Any] | None = None

    @classmethod
    def of(cls, batch: BatchDocument, number: int, collection_ids: list[str]) -> "TierTask":
        """Return the progress of one tier. Every tier processes the objects of the batch, so all tiers are alike."""
        started, completed = batch.get("started_at"), batch.get("completed_at")
        processed, failed, total = batch.get("processed", 0), batch.get("failed", 0), objects_to_process(batch)
        status = Status(batch["status"])
        return cls(
            tier_num=number,
            task_id=batch["task_id"],
            status=status,
            collection_ids=collection_ids,
            source_type="bucket" if number == 0 else "collection",
            started_at=started,
            completed_at=completed,
            duration_ms=(completed - started).total_seconds() * 1000 if started and completed else None,
            audit={
                "tier_num": number,
                "submitted": total,
                "processed": processed - failed,
                "failed": failed,
                "skipped": 0,
                "lost": 0,
                "balanced": status not in FINAL or status is Status.CANCELED or processed >= total,
            },
        )


class Batch(ResponseBody):
    """A batch. `documents_resolvable`: it has finished, and its documents can be read."""

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
        default=0, description="Written by this batch including retries, without those that its objects had before."
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

    @classmethod
    def of(cls, batch: BatchDocument, tiers: Sequence[Sequence[CollectionDocument]], now: datetime) -> "Batch":
        """Return the response for a stored batch. ``tiers`` are the collections that its objects reach.

        Fields of the same name are copied.
        """
        status = Status(batch["status"])
        submitted = status is not Status.DRAFT
        dag_tiers = [[collection["_id"] for collection in tier] for tier in tiers]
        failed_objects = batch.get("failed_objects", [])
        return cls.model_validate(
            {
                **batch,
                "batch_id": batch["_id"],
                "object_ids": batch["objects"],
                "collection_ids": [collection_id for tier in dag_tiers for collection_id in tier],
                "task_id": batch["task_id"] if submitted else None,
                "tier_tasks": [TierTask.of(batch, *tier) for tier in enumerate(dag_tiers)] if submitted else [],
                "current_tier": None if not submitted else max(len(dag_tiers) - 1, 0) if status in FINAL else 0,
                "total_tiers": max(1, len(dag_tiers)),
                "dag_tiers": dag_tiers,
                "progress": BatchProgress.of(batch, now) if submitted else None,
                "documents_resolvable": status in FINAL,
                "failed_objects": failed_objects,
                "failed_object_count": batch.get("failed", 0),
                "last_activity_at": batch.get("moved_at"),
                "lifecycle": _lifecycle(batch, status),
                "lifecycle_reason": batch.get("failure_reason") or batch.get("cancel_reason"),
                "error_summary": dict(Counter(row["error_type"] for row in failed_objects)) or None,
            }
        )


def _lifecycle(batch: BatchDocument, status: Status) -> str:
    match status:
        case Status.DRAFT:
            return "accepted"
        case Status.CANCELED | Status.FAILED:
            return status.lower()
        case Status.COMPLETED | Status.COMPLETED_WITH_ERRORS:
            return "indexed"
    return "extracting" if batch.get("processed") else "admitted" if batch.get("planned") else "queued"


class BatchList(ResponseBody):
    """A page of batches, each with its first 100 `object_ids`; `progress.total` counts all."""

    results: list[Batch]
    total_count: int
    pagination: Pagination


class Retry(ResponseBody):
    """The response to a retry. `retried_count` 0: nothing of that kind failed, and the batch is unchanged."""

    batch_id: str
    task_id: str
    status: Status
    retry_mode: Literal["transient_only", "all"]
    retried_count: int
    retry_count: int
    max_retry_count: int
    message: str

    @classmethod
    def of(cls, batch: BatchDocument, retried_count: int, request: RetryBatch) -> "Retry":
        """Return the response to a retry."""
        kind = "no object failed" if request.retry_mode == "all" else "no object failed with a transient error"
        return cls(
            batch_id=batch["_id"],
            task_id=batch["task_id"],
            status=Status(batch["status"]),
            retry_mode=request.retry_mode,
            retried_count=retried_count,
            retry_count=batch.get("retry_count", 0),
            max_retry_count=request.max_retry_count,
            message=f"{retried_count} objects are retried" if retried_count else f"{kind}: nothing to retry",
        )


class Resubmission(ResponseBody):
    """The response to a resubmission."""

    batch_id: str
    task_id: str | None = None
    status: Status
    previous_status: Status
    object_count: int
    message: str

    @classmethod
    def of(cls, batch: BatchDocument, *, previous_status: str) -> "Resubmission":
        """Return the response to a resubmission."""
        draft = batch["status"] == Status.DRAFT
        return cls(
            batch_id=batch["_id"],
            task_id=None if draft else batch["task_id"],
            status=Status(batch["status"]),
            previous_status=Status(previous_status),
            object_count=batch["total"],
            message="the batch is a draft again" if draft else "the batch is processed again",
        )


class SubmittedBatch(ResponseBody):
    """A submitted batch. ``error`` says why it was not submitted; then it stays a draft."""

    batch_id: str
    status: Status
    object_count: int
    task_id: str | None = None
    queue_position: int | None = None
    error: str | None = None


class SubmittedDrafts(ResponseBody):
    """The submitted drafts. ``empty`` drafts have no objects and stay. ``has_more``: others remain."""

    submitted: int
    failed: int
    empty: int
    total: int
    has_more: bool
    batches: list[SubmittedBatch]
    message: str


class BulkSubmitted(ResponseBody):
    """The submitted batches. ``batch_group_id`` is in the metadata of each: filter by ``metadata.batch_group_id``."""

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
    """A page of the objects that failed."""

    batch_id: str
    results: list[FailedDocument]
    total: int
    limit: int
    offset: int


class BatchAudit(ResponseBody):
    """Audit of a batch: every submitted object is counted in exactly one of the other fields.

    Results of single objects are kept for 30 days. After that (`from_sums`) these are the totals that the batch had
    when it finished, and `completed` includes skipped objects.
    """

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
    tiers: list[dict[str, Any]] = Field(examples=[[]])
