"""Query parameters and responses of the event feed."""

from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field, RootModel

from bucketline.db.event_feed import FeedEvent, Position
from bucketline_ingest_api.events.notifications import EventType
from bucketline_ingest_api.schemas import ResponseBody, Timestamp, example

Operation = Literal["insert", "update", "delete", "other"]

_OPERATIONS: dict[str, Operation] = {
    "object.created": "insert",
    "object.updated": "update",
    "object.deleted": "delete",
}


class EventFilter(BaseModel):
    """Which events to return. A cursor belongs to the filters that it was returned for."""

    model_config = ConfigDict(frozen=True)

    event_type: EventType | None = Field(default=None, description="Only events of this type.")
    bucket_id: str | None = Field(default=None, max_length=100, description="Only events of this bucket's objects.")
    object_id: str | None = Field(default=None, max_length=100, description="Only events of this object.")
    batch_id: str | None = Field(default=None, max_length=100, description="Only events of this batch.")
    namespace_id: str | None = Field(
        default=None, max_length=200, description="Only events of this namespace (id or name), as `X-Namespace`."
    )
    cursor: str | None = Field(
        default=None, max_length=100, description="`next_cursor` or an event's `cursor`; events after it are returned."
    )


class EventPage(EventFilter):
    """A page of the feed."""

    next_cursor: str | None = Field(default=None, max_length=100, description="Alias of `cursor`.")
    after: str | None = Field(default=None, max_length=100, description="Alias of `cursor`.")
    limit: int | None = Field(default=None, ge=1, le=1000, description="Events to return, 100 by default.")
    page_size: int | None = Field(default=None, ge=1, le=1000, description="Alias of `limit`.")


EventFilterQuery = Annotated[EventFilter, Query()]
EventPageQuery = Annotated[EventPage, Query()]

_EVENT = {
    "seq": 1772355600123000,
    "cursor": "1772355600123.69a3f1d0c2b1a0f9e8d7c6b5.0",
    "namespace_id": "ns_0011223344",
    "event_type": "object.created",
    "resource_type": "object",
    "operation": "insert",
    "payload": {
        "event_id": "evt_06h2v3k4m5n6p7q8r9s0",
        "event_type": "object.created",
        "occurred_at": "2026-03-01T09:00:00.000Z",
        "namespace_id": "ns_0011223344",
        "subject": {"type": "object", "id": "obj_06h2v3k4m5n6p7q8r9s0"},
        "metadata": {"bucket_id": "bkt_06h2v3k4m5n6p7q8r9s0", "status": "DRAFT", "revision": 1},
        "cache_scope": "key",
    },
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "created_at": "2026-03-01T09:00:00.123Z",
}


class ChangeEvent(ResponseBody):
    """An event. `payload.event_id` is the same whenever an event is in the feed more than once."""

    model_config = example(_EVENT)

    seq: int = Field(description="Grows along the feed; use `cursor` to resume.")
    cursor: str = Field(description="The position of this event.")
    namespace_id: str | None
    event_type: EventType
    resource_type: str
    operation: Operation
    payload: dict[str, Any] | None = Field(description="What webhooks receive.")
    trace_id: str | None = Field(description="The trace of the request or the run that caused the event.")
    created_at: Timestamp = Field(description="When the event was added to the feed.")

    @classmethod
    def of(cls, event: FeedEvent, position: Position) -> "ChangeEvent":
        """Return a stored event."""
        return cls.model_validate(
            {
                **event,
                "seq": position.milliseconds * 1000 + position.index,
                "cursor": str(position),
                "created_at": position.at,
                "resource_type": event["event_type"].partition(".")[0],
                "operation": _OPERATIONS.get(event["event_type"], "other"),
            }
        )


class EventList(ResponseBody):
    """Events in the order of the feed."""

    model_config = example({"results": [_EVENT], "next_cursor": _EVENT["cursor"], "has_more": False})

    results: list[ChangeEvent]
    next_cursor: str | None = Field(description="Pass it as `cursor` to continue. An empty page keeps the cursor.")
    has_more: bool = Field(description="Whether to ask for the next page now. A page may be empty and have a next one.")


class EventSchema(RootModel[dict[str, Any]]):
    """A JSON Schema. Its `$id` is the `ce_dataschema` of the events."""

    model_config = example({"$id": "urn:bucketline:schema:bucketline.object.created.v1", "type": "object"})
