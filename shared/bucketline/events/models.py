"""Every event that Bucketline publishes.

An event says what happened and points at state; blob bytes never travel in it (claim check), and it stays far
below 1 MiB.

Versions of a service run side by side in every upgrade. Inside one version of a type fields are only added, each with
a default; a consumer ignores fields it does not know, and whole types it does not know. Anything else (a field that
goes, changes its meaning, or takes a value it could not take) is a new type, said beside the old one for a while.
"""

from datetime import datetime
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from bucketline.domain.status import Status

NAMESPACE = "bucketline."
"""What the types of our events begin with."""


class Event(BaseModel):
    """Base of all payloads. ``type`` is the CloudEvents type, ``subject_field`` names the field with its subject."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: ClassVar[str]
    key_field: ClassVar[str]
    subject_field: ClassVar[str]

    @property
    def key(self) -> str:
        """The record's key on the bus: events of one key keep their order."""
        return str(getattr(self, self.key_field))

    @property
    def subject(self) -> str:
        return str(getattr(self, self.subject_field))


class ObjectEvent(Event):
    """Something about one object; ordered per object."""

    key_field: ClassVar[str] = "object_id"
    subject_field: ClassVar[str] = "object_id"

    object_id: str
    bucket_id: str
    namespace_id: str
    revision: int = Field(description="Grows with every write of the producer; an older event has a smaller one.")


class ObjectCreated(ObjectEvent):
    """A draft was stored durably."""

    type: ClassVar[str] = "bucketline.object.created.v1"

    key_prefix: str | None = None
    status: Status = Status.DRAFT
    blob_count: int = 0
    auto_process: bool = False
    created_at: datetime


class ObjectUpdated(ObjectEvent):
    """The producer changed the object. ``blobs_changed`` tells whether its content must be mirrored again."""

    type: ClassVar[str] = "bucketline.object.updated.v1"

    blobs_changed: bool = False
    auto_process: bool = False
    updated_at: datetime


class ObjectDeleted(ObjectEvent):
    """The object is gone; its documents and its claims on blobs follow."""

    type: ClassVar[str] = "bucketline.object.deleted.v1"

    deleted_at: datetime


class MirroredBlob(BaseModel):
    """What became of one blob."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    blob_id: str
    property: str
    state: Literal["stored", "linked", "none", "failed"]
    sha256: str | None = None
    size_bytes: int | None = None
    duplicate: bool = False


class ObjectMirrored(ObjectEvent):
    """Every blob of the object has been dealt with; it may be processed."""

    type: ClassVar[str] = "bucketline.object.mirrored.v1"

    auto_process: bool = False
    failed: bool = False
    error: str | None = None
    blobs: list[MirroredBlob] = []


class ObjectStatusChanged(ObjectEvent):
    """A run moved an object. ``(run, rank)`` only grows; an event that is not greater changes nothing."""

    type: ClassVar[str] = "bucketline.object.status_changed.v1"

    batch_id: str | None = Field(default=None, description="None: the object failed before any batch took it.")
    unit_id: str | None = None
    item_index: int | None = Field(default=None, description="The object's place in its work unit.")
    run_id: int
    sequence: int
    status: Status
    error: str | None = None
    error_type: Literal["transient", "permanent", "resource"] | None = None
    documents_total: int = Field(default=0, description="Documents of the object, whoever made them.")
    documents_written: int | None = Field(
        default=None, description="Those of them that this run made. None: the processor is of an older release."
    )
    attempt_number: int = 1
    duration_ms: float | None = None
    warnings: list[str] = Field(
        default_factory=list, description="What was not done although nothing failed: at most 20 blobs not read."
    )
    occurred_at: datetime


class BatchEvent(Event):
    """Something about one batch; ordered per batch."""

    key_field: ClassVar[str] = "batch_id"
    subject_field: ClassVar[str] = "batch_id"

    batch_id: str
    bucket_id: str
    namespace_id: str


class BatchSubmitted(BatchEvent):
    """A draft batch was submitted; the batcher owns it from here."""

    type: ClassVar[str] = "bucketline.batch.submitted.v1"

    object_count: int
    submitted_at: datetime


class BatchCanceled(BatchEvent):
    """Work of the batch that has not started is given up."""

    type: ClassVar[str] = "bucketline.batch.canceled.v1"

    reason: str | None = None
    canceled_at: datetime


class BatchCompleted(BatchEvent):
    """Every object of the batch has its final status."""

    type: ClassVar[str] = "bucketline.batch.completed.v1"

    status: Status
    object_count: int
    failed_count: int
    documents_written: int = Field(description="By this batch; not what its objects had before.")
    completed_at: datetime


class WorkUnitReady(Event):
    """A work unit waits for a processor. The unit itself is state; this only wakes somebody."""

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
