"""Every event that Bucketline publishes.

An event says what happened and refers to stored state. It never carries blob bytes (claim check) and stays far below
1 MiB.

Two releases of a service run side by side during an upgrade. Within one version of a type, fields are only added, each
with a default; consumers ignore fields and types that they do not know. Any other change (a field that is removed,
changes its meaning or gets new values) needs a new type, which is published beside the old one for a while.
"""

from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from bucketline.domain.status import Status

NAMESPACE = "bucketline."
"""Prefix of the types of our events."""


def schema_name(event_type: str) -> str:
    """Return the URN of the JSON Schema of an event type, its CloudEvents ``dataschema``."""
    return f"urn:bucketline:schema:{event_type}"


class Event(BaseModel):
    """Base of all payloads.

    ``type`` is the CloudEvents type; ``key_field`` and ``subject_field`` name the fields with the record's key and the
    CloudEvents subject.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: ClassVar[str]
    key_field: ClassVar[str]
    subject_field: ClassVar[str]

    @property
    def key(self) -> str:
        """The key of the Kafka record. Events with the same key keep their order."""
        return str(getattr(self, self.key_field))

    @property
    def subject(self) -> str:
        """The CloudEvents subject."""
        return str(getattr(self, self.subject_field))


class ObjectEvent(Event):
    """Base of events about one object; ordered per object."""

    key_field: ClassVar[str] = "object_id"
    subject_field: ClassVar[str] = "object_id"

    object_id: str
    bucket_id: str
    namespace_id: str
    revision: int = Field(description="Grows with every write of the producer.")


class ObjectStateEvent(ObjectEvent):
    """Base of events with the state of the object after a change by the producer.

    ``run_id`` and ``sequence`` order the status among those of :class:`ObjectStatusChanged`.
    """

    key_prefix: str | None = None
    status: Status = Status.DRAFT
    run_id: int | None = Field(default=None, description="None: the event carries no state.")
    sequence: int | None = Field(default=None, description="None: the event carries no state.")
    error: str | None = None
    fields: dict[str, Any] = Field(default_factory=dict, description="The producer's custom fields.")
    fields_omitted: bool = Field(
        default=False, description="The custom fields have more than 64 kB: get them from the API."
    )


class ObjectCreated(ObjectStateEvent):
    """A draft was stored durably."""

    type: ClassVar[str] = "bucketline.object.created.v1"

    blob_count: int = 0
    auto_process: bool = False
    created_at: datetime


class ObjectUpdated(ObjectStateEvent):
    """The producer changed the object. If ``blobs_changed``, its content is mirrored again.

    A change that makes the object a draft again, or starts a new run, has a greater ``run_id``.
    """

    type: ClassVar[str] = "bucketline.object.updated.v1"

    blobs_changed: bool = False
    auto_process: bool = False
    updated_at: datetime


class ObjectDeleted(ObjectEvent):
    """The object was deleted. Its documents and references to blobs are deleted afterwards."""

    type: ClassVar[str] = "bucketline.object.deleted.v1"

    deleted_at: datetime


class MirroredBlob(BaseModel):
    """The result of mirroring one blob."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    blob_id: str
    property: str
    state: Literal["stored", "linked", "none", "failed"]
    sha256: str | None = None
    size_bytes: int | None = None
    duplicate: bool = False


class ObjectMirrored(ObjectEvent):
    """Mirroring of the object's blobs has finished, so the object may be processed."""

    type: ClassVar[str] = "bucketline.object.mirrored.v1"

    auto_process: bool = False
    failed: bool = False
    error: str | None = None
    blobs: list[MirroredBlob] = []


class ObjectStatusChanged(ObjectEvent):
    """A run changed the status of an object. ``(run_id, sequence)`` only grows; ignore an event that is not greater."""

    type: ClassVar[str] = "bucketline.object.status_changed.v1"

    batch_id: str | None = Field(default=None, description="None if the object failed before it was in a batch.")
    unit_id: str | None = None
    item_index: int | None = Field(default=None, description="The object's index in its work unit.")
    run_id: int
    sequence: int
    status: Status
    error: str | None = None
    error_type: Literal["transient", "permanent", "resource"] | None = None
    documents_total: int = Field(default=0, description="All documents of the object.")
    documents_written: int | None = Field(
        default=None, description="Documents that this run has written. None means unknown."
    )
    attempt_number: int = 1
    duration_ms: float | None = None
    warnings: list[str] = Field(
        default_factory=list, description="Blobs that were not read although nothing failed, at most 20."
    )
    occurred_at: datetime


class BatchEvent(Event):
    """Base of events about one batch; ordered per batch."""

    key_field: ClassVar[str] = "batch_id"
    subject_field: ClassVar[str] = "batch_id"

    batch_id: str
    bucket_id: str
    namespace_id: str


class BatchSubmitted(BatchEvent):
    """A draft batch was submitted. From now on the batcher owns it."""

    type: ClassVar[str] = "bucketline.batch.submitted.v1"

    object_count: int
    submitted_at: datetime


class BatchCanceled(BatchEvent):
    """Cancellation of the batch was requested: work that has not started is not done."""

    type: ClassVar[str] = "bucketline.batch.canceled.v1"

    reason: str | None = None
    canceled_at: datetime


class BatchCompleted(BatchEvent):
    """Every object of the batch has its final status."""

    type: ClassVar[str] = "bucketline.batch.completed.v1"

    status: Status
    object_count: int
    failed_count: int
    documents_written: int = Field(description="Documents written by this batch.")
    completed_at: datetime


class WorkUnitReady(Event):
    """A work unit is ready for a processor, which claims it in MongoDB."""

    type: ClassVar[str] = "bucketline.work_unit.ready.v1"
    key_field: ClassVar[str] = "unit_id"
    subject_field: ClassVar[str] = "unit_id"

    unit_id: str
    size: int


EVENT_TYPES: tuple[type[Event], ...] = (
    ObjectCreated,
    ObjectUpdated,
    ObjectDeleted,
    ObjectMirrored,
    BatchSubmitted,
    BatchCanceled,
    BatchCompleted,
    WorkUnitReady,
    ObjectStatusChanged,
)
EVENT_TYPES_BY_NAME: dict[str, type[Event]] = {event.type: event for event in EVENT_TYPES}


def json_schema(event: type[Event]) -> dict[str, Any]:
    """Return the JSON Schema of an event type."""
    return {"$id": schema_name(event.type), **event.model_json_schema()}
