"""Which events of the feed a request selects, and which the caller may see."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from bucketline.db.event_feed import FeedDocument, FeedEvent, Position
from bucketline.errors import BadRequest
from bucketline_ingest_api.auth import Auth, Principal
from bucketline_ingest_api.events.schemas import EventFilter


@dataclass(frozen=True)
class Selection:
    """The events that a caller asks for and may see. ``namespaces`` None means all of the organization."""

    organization_id: str
    namespaces: frozenset[str] | None
    filter: EventFilter
    subjects: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        ids = (self.filter.object_id, self.filter.batch_id, self.filter.bucket_id)
        object.__setattr__(self, "subjects", frozenset(one for one in ids if one is not None))

    @property
    def indexed_subject(self) -> str | None:
        """The most selective id, by which documents are found; None without any."""
        return self.filter.object_id or self.filter.batch_id or self.filter.bucket_id

    def matches(self, event: FeedEvent) -> bool:
        """Return whether an event of the organization is selected."""
        if self.namespaces is not None and event["namespace_id"] not in self.namespaces:
            return False
        if self.filter.event_type is not None and event["event_type"] != self.filter.event_type:
            return False
        if not self.subjects:
            return True
        payload, metadata = event["payload"], event["payload"]["metadata"]
        return self.subjects <= {payload["subject"]["id"], metadata.get("bucket_id"), metadata.get("batch_id")}

    def select(self, document: FeedDocument, after: Position | None) -> Iterator[tuple[Position, FeedEvent]]:
        """Yield the selected events of a document that are after a position."""
        if document["organization_id"] != self.organization_id:
            return
        for index, event in enumerate(document["events"]):
            position = Position.of(document, index)
            if (after is None or position > after) and self.matches(event):
                yield position, event


async def select_events(auth: Auth, caller: Principal, event_filter: EventFilter, namespace: str | None) -> Selection:
    """Return what the request selects. ``namespace`` is the one of the header.

    Raises :class:`BadRequest` if the header and the parameter name different namespaces.
    """
    scopes = {
        (await auth.namespace(caller, identifier))["_id"]
        for identifier in (namespace, event_filter.namespace_id)
        if identifier
    }
    if len(scopes) > 1:
        raise BadRequest("X-Namespace and namespace_id name different namespaces: send one of them")
    return Selection(caller.organization_id, frozenset(scopes) or caller.namespaces or None, event_filter)


def parse_cursor(text: str | None) -> Position | None:
    """Return the position of a cursor. Raises :class:`BadRequest` for one that no response had."""
    if not text:
        return None
    try:
        return Position.parse(text)
    except ValueError as error:
        message = "the cursor is invalid: use the cursor of an event, or start again without it"
        raise BadRequest(message, code="invalid_cursor") from error
