"""Reads pages of the event feed."""

from collections.abc import Sequence
from dataclasses import dataclass

from bucketline.db.event_feed import EventFeed, FeedEvent, Position
from bucketline_ingest_api.events.selection import Selection

DOCUMENTS_PER_READ = 20
MAX_READS = 25
"""Reads for one page. A page whose filters match little is returned early, with a cursor to continue."""


@dataclass(frozen=True)
class FeedPage:
    """Events in order. ``last`` is the position to continue after."""

    events: Sequence[tuple[Position, FeedEvent]]
    last: Position | None
    has_more: bool


async def read_page(feed: EventFeed, selection: Selection, after: Position | None, limit: int) -> FeedPage:
    """Return the next events after a position. A page is empty with ``has_more`` if few events match."""
    events: list[tuple[Position, FeedEvent]] = []
    position = after
    for _ in range(MAX_READS):
        documents = await feed.find_after(
            position,
            limit=DOCUMENTS_PER_READ,
            organization_id=selection.organization_id,
            subject=selection.indexed_subject,
        )
        for document in documents:
            events += selection.select(document, position)
            if len(events) > limit:
                return FeedPage(events[:limit], events[limit - 1][0], has_more=True)
        if len(documents) < DOCUMENTS_PER_READ:
            return FeedPage(events, events[-1][0] if events else after, has_more=False)
        position = Position.of(documents[-1], len(documents[-1]["events"]))
    return FeedPage(events, position, has_more=True)
