"""Bodies of the batch routes."""

from typing import Any, Literal

from pydantic import Field, JsonValue, model_validator

from bucketline.domain.status import Status
from ingest_api.schemas.common import Answer, Pagination, Request, Timestamp, example

MOST_OBJECTS = 50_000
ObjectId = str

DedupStrategy = Literal["skip", "replace", "force"]


class CreateBatch(Request):
    """Objects by id or by filter, not both."""

    model_config = example({"object_ids": ["obj_06h2v9k1m3q5s7t9v1x3"], "batch_name": "nightly-2026-03-01"})

    object_ids: list[ObjectId] | None = Field(default=None, min_length=1, max_length=MOST_OBJECTS)
    filters: dict[str, JsonValue] | None = None
    limit: int | None = Field(default=None, ge=1, le=MOST_OBJECTS)
    collection_ids: list[str] | None = Field(default=None, max_length=100)
    dedup_strategy: DedupStrategy = "skip"
    metadata: dict[str, JsonValue] | None = None
    batch_name: str | None = Field(default=None, max_length=256)
    auto_submit: bool | None = None
    trigger_processing: bool | None = None

    @model_validator(mode="after")
    def _one_of(self) -> "CreateBatch":
        if (self.object_ids is None) == (self.filters is None):
            raise ValueError("name the objects by object_ids or by filters, and not by both")
        return self


class SubmitBatch(Request):
    """All of it optional, and so is the body."""

    include_processing_history: bool = True
    collection_ids: list[str] | None = Field(default=None, max_length=100)
    webhook_url: str | None = Field(default=None, max_length=2048)


class Progress(Answer):
    processed: int
    total: int
    percent: float
    items_per_second: float | None = None
    eta_seconds: float | None = None
    errors: int = 0
    first_error: str | None = None
    documents_written: int = 0


class FailedObjectRow(Answer):
    object_id: str
    error: str
    error_type: Literal["transient", "permanent", "resource"]
    timestamp: Timestamp


class TierTask(Answer):
    tier_num: int
    task_id: str
    status: Status
    collection_ids: list[str] = Field(min_length=1)
    source_type: Literal["bucket", "collection"] = "bucket"
    started_at: Timestamp | None = None
    completed_at: Timestamp | None = None
    duration_ms: float | None = None
    audit: dict[str, Any] | None = None


class Batch(Answer):
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
    progress: Progress | None = None
    documents_written: int = 0
    documents_resolvable: bool = False
    failure_reason: str | None = None
    failure_category: str | None = None
    failed_objects: list[FailedObjectRow]
    failed_object_count: int = 0
    webhook_url: str | None = None
    retry_count: int = 0
    max_retries: int = 3
    max_node_death_resubmits: int = 0
    max_deploy_resubmits: int = 0
    last_activity_at: Timestamp | None = None
    created_at: Timestamp
    updated_at: Timestamp


class BatchList(Answer):
    results: list[Batch]
    total_count: int
    pagination: Pagination
