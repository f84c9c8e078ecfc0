"""Follows the feed for all streams of this replica: one reader of the database, whatever the number of clients.

The tail keeps the latest documents of the feed. A stream reads from it; one that is further behind (after a reconnect,
or because its client is slow) reads from the database until it has caught up.
"""

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from bucketline.db.event_feed import EventFeed, FeedDocument, FeedEvent, Position
from bucketline.errors import ServiceUnavailable
from bucketline.server import is_stopping
from bucketline_ingest_api.events.selection import Selection

POLL_SECONDS = 0.5
MAX_STREAMS = 1500
"""Limit on the streams of one replica; it leaves connections for other requests."""
STREAM_SECONDS = 600.0
"""Length of a stream. The client reconnects by itself, with a key that is checked again."""
MAX_BUFFERED_EVENTS = 20_000
DOCUMENTS_PER_READ = 20


class FeedTail:
    """The latest documents of the feed, while there are streams."""

    def __init__(self, feed: EventFeed) -> None:
        self._feed = feed
        self._streams = 0
        self._documents: list[FeedDocument] = []
        self._start: Position | None = None
        """The position before the first of the documents; None while nothing is followed."""
        self._changed = asyncio.Event()
        self._polling = asyncio.Lock()

    @asynccontextmanager
    async def stream(self, after: Position | None) -> AsyncIterator[Position]:
        """Count a stream, and yield the position that it starts after: ``after``, or now.

        Raises :class:`ServiceUnavailable` if there are too many streams.
        """
        if self._streams >= MAX_STREAMS:
            raise ServiceUnavailable("too many streams are open: try again later")
        self._streams += 1
        try:
            if self._start is None:
                await self.poll()
            yield after or self._end()
        finally:
            self._streams -= 1

    async def poll(self) -> None:
        """Read what has been added to the feed, and wake the streams."""
        async with self._polling:
            if not self._streams:
                self._documents, self._start = [], None
                return
            if self._start is None:
                self._start = await self._feed.end()
            found = await self._feed.find_after(self._end(), limit=DOCUMENTS_PER_READ)
            while found := [document for document in found if _end_of(document) > self._end()]:
                self._documents += found
                self._discard_old()
                found = await self._feed.find_after(self._end(), limit=DOCUMENTS_PER_READ)
            self._changed.set()
            self._changed = asyncio.Event()

    async def follow(self, selection: Selection, after: Position) -> AsyncIterator[tuple[Position, FeedEvent]]:
        """Yield the selected events after a position, until the stream is over or the service stops."""
        position = after
        ends_at = asyncio.get_running_loop().time() + STREAM_SECONDS
        while not is_stopping() and asyncio.get_running_loop().time() < ends_at:
            changed, start = self._changed, self._start
            if start is not None and position >= start:
                first = bisect_right(self._documents, position, key=_end_of)
                documents, caught_up = self._documents[first:], True
            else:
                documents = await self._feed.find_after(
                    position,
                    limit=DOCUMENTS_PER_READ,
                    organization_id=selection.organization_id,
                    subject=selection.indexed_subject,
                )
                caught_up = len(documents) < DOCUMENTS_PER_READ
            for document in documents:
                for event_position, event in selection.select(document, position):
                    yield event_position, event
                position = max(position, _end_of(document))
            if not caught_up:
                continue
            if start is not None and position < start:
                # Whatever the database had before the tail has been sent.
                position = start
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout_at(ends_at):
                    await changed.wait()

    def _end(self) -> Position:
        """Return the position after everything that has been read."""
        assert self._start is not None  # noqa: S101 - set by the first poll
        return _end_of(self._documents[-1]) if self._documents else self._start

    def _discard_old(self) -> None:
        count = sum(len(document["events"]) for document in self._documents)
        while count > MAX_BUFFERED_EVENTS and len(self._documents) > 1:
            oldest = self._documents.pop(0)
            self._start = _end_of(oldest)
            count -= len(oldest["events"])


def _end_of(document: FeedDocument) -> Position:
    return Position.of(document, len(document["events"]))
