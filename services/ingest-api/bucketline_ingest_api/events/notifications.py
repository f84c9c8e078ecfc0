"""What subscribers outside of Kafka learn of events: webhooks, the feed and its stream.

Events are reduced to the event types of the contract. Those of statuses that are not final are ``is_interim``: the feed
has them, webhooks do not receive them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from bucketline.clock import wire_time
from bucketline.domain.status import RANK_FINAL
from bucketline.events.cloudevents import ReceivedEvent
from bucketline.events.models import (
    BatchCompleted,
    Event,
    ObjectCreated,
    ObjectDeleted,
    ObjectStatusChanged,
    ObjectUpdated,
)
from bucketline.ids import derived

EventType = Literal[
    "object.created",
    "object.updated",
    "object.deleted",
    "collection.documents.written",
    "collection.documents.batch_completed",
]


@dataclass(frozen=True)
class Notification:
    """An event as the contract describes it."""

    event_id: str
    event_type: EventType
    occurred_at: datetime
    namespace_id: str
    subject_type: str
    subject_id: str
    metadata: dict[str, object]
    trace_id: str | None = None
    is_interim: bool = False

    @property
    def resource_type(self) -> str:
        """The first part of the event type."""
        return self.event_type.partition(".")[0]

    @property
    def subjects(self) -> set[str]:
        """The ids of the object, the bucket and the batch that the event is about."""
        ids = (self.subject_id, self.metadata.get("bucket_id"), self.metadata.get("batch_id"))
        return {str(one) for one in ids if one}

    def payload(self) -> dict[str, object]:
        """Return what subscribers receive, as JSON values."""
        return {
            "event_id": self.event_id,
            "event_type": self.event_type,
            "occurred_at": wire_time(self.occurred_at),
            "namespace_id": self.namespace_id,
            "subject": {"type": self.subject_type, "id": self.subject_id},
            "metadata": self.metadata,
            "cache_scope": "key" if self.resource_type == "object" else "collection",
        }


def notifications_of(record: ReceivedEvent[Any]) -> Iterator[Notification]:
    """Yield the notifications of an event; none for events that no event type stands for.

    Their ids are the same whenever the event is received again. A status change may be published again with another
    id, so its place in the order of the object's statuses identifies it.
    """
    event: Event = record.event
    trace = _trace_id(record)
    if isinstance(event, ObjectCreated):
        details: dict[str, object] = {"status": str(event.status)}
        yield _of_object("object.created", record.id, event, event.created_at, details, trace)
    elif isinstance(event, ObjectUpdated):
        details = {"blobs_changed": event.blobs_changed}
        yield _of_object("object.updated", record.id, event, event.updated_at, details, trace)
    elif isinstance(event, ObjectDeleted):
        yield _of_object("object.deleted", record.id, event, event.deleted_at, {}, trace)
    elif isinstance(event, ObjectStatusChanged):
        yield from _of_status_change(event, trace)
    elif isinstance(event, BatchCompleted):
        yield Notification(
            event_id=record.id,
            event_type="collection.documents.batch_completed",
            occurred_at=event.completed_at,
            namespace_id=event.namespace_id,
            subject_type="batch",
            subject_id=event.batch_id,
            metadata=event.model_dump(mode="json", exclude={"namespace_id", "completed_at"}),
            trace_id=trace,
        )


def _of_status_change(event: ObjectStatusChanged, trace: str | None) -> Iterator[Notification]:
    identity = (event.object_id, event.run_id, event.sequence)
    details: dict[str, object] = {
        "status": str(event.status),
        "error": event.error,
        "batch_id": event.batch_id,
        "run_id": event.run_id,
        "documents_total": event.documents_total,
    }
    event_id = derived("evt", "status", *identity)
    is_interim = event.sequence != RANK_FINAL
    yield _of_object("object.updated", event_id, event, event.occurred_at, details, trace, is_interim=is_interim)
    if event.documents_written and not is_interim:
        details = {**details, "documents_written": event.documents_written}
        event_id = derived("evt", "written", *identity)
        yield _of_object("collection.documents.written", event_id, event, event.occurred_at, details, trace)


def _of_object(
    event_type: EventType,
    event_id: str,
    event: ObjectCreated | ObjectUpdated | ObjectDeleted | ObjectStatusChanged,
    at: datetime,
    details: dict[str, object],
    trace_id: str | None,
    *,
    is_interim: bool = False,
) -> Notification:
    metadata: dict[str, object] = {
        "bucket_id": event.bucket_id,
        "object_id": event.object_id,
        "revision": event.revision,
        **details,
    }
    return Notification(
        event_id=event_id,
        event_type=event_type,
        occurred_at=at,
        namespace_id=event.namespace_id,
        subject_type="object",
        subject_id=event.object_id,
        metadata=metadata,
        trace_id=trace_id,
        is_interim=is_interim,
    )


def _trace_id(record: ReceivedEvent[Any]) -> str | None:
    """Return the second part of a W3C ``traceparent``."""
    parts = record.trace.get("traceparent", "").split("-")
    return parts[1] if len(parts) == 4 else None
