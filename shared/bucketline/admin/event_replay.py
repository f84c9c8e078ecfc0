"""Publishes the events of stored objects again, for a subscriber that did not exist when they were first published.

The events have the same ids in every replay, so a subscriber that deduplicates by ``(source, id)`` may receive a replay
twice. Our own services treat them like any duplicate: nothing is mirrored or processed again. They have no trace,
because the trace of the original request is over.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from bucketline.clock import Clock, from_millis, millis
from bucketline.db.objects import BlobDocument, ObjectDocument, Objects, event_state
from bucketline.domain.status import Status
from bucketline.errors import BadRequest
from bucketline.events.cloudevents import REPLAY, CloudEvent, encode_event
from bucketline.events.models import Event, MirroredBlob, ObjectCreated, ObjectMirrored, ObjectStatusChanged
from bucketline.ids import derived
from bucketline.kafka.publisher import Publisher

PAGE = 200


@dataclass(frozen=True)
class ReplayCursor:
    """The last object of a replay. ``str`` returns what ``parse`` accepts."""

    created_at: datetime
    object_id: str

    def __str__(self) -> str:
        return f"{millis(self.created_at)}:{self.object_id}"

    @classmethod
    def parse(cls, text: str) -> "ReplayCursor":
        """Return the cursor that ``text`` stands for. Raises BadRequest if it is not one."""
        milliseconds, _, object_id = text.partition(":")
        try:
            if milliseconds.isdecimal() and object_id:
                return cls(from_millis(int(milliseconds)), object_id)
        except (ValueError, OverflowError, OSError):
            pass
        raise BadRequest(f"invalid replay cursor {text!r}")


@dataclass(frozen=True)
class ReplayProgress:
    """The numbers of objects and events that were published so far, and where to continue."""

    objects: int
    events: int
    cursor: ReplayCursor


class EventReplay:
    """Publishes the events of a bucket's objects, oldest first, at most ``rate`` objects per second."""

    def __init__(
        self,
        objects: Objects,
        publisher: Publisher,
        *,
        clock: Clock,
        rate: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._objects = objects
        self._publisher = publisher
        self._clock = clock
        self._rate = rate
        self._sleep = sleep

    async def run(
        self, bucket_id: str, since: datetime, after: ReplayCursor | None = None
    ) -> AsyncIterator[ReplayProgress]:
        """Publish the events of every object created at ``since`` or later and after ``after``, page by page.

        The events of a page are acknowledged when its progress is yielded. Objects created during the replay are
        included. The events of an object keep their order, because they have the same key.
        """
        objects = events = 0
        position = (after.created_at, after.object_id) if after else None
        while page := await self._objects.created_since(bucket_id, since, after=position, limit=PAGE):
            started = self._clock.now()
            envelopes = [_wrap(event, obj, at) for obj in page for event, at in lifecycle_events(obj)]
            await self._publisher.publish(envelopes)
            objects, events = objects + len(page), events + len(envelopes)
            position = (page[-1]["created_at"], page[-1]["_id"])
            yield ReplayProgress(objects, events, ReplayCursor(*position))
            elapsed = (self._clock.now() - started).total_seconds()
            await self._sleep(max(0.0, len(page) / self._rate - elapsed))


def lifecycle_events(obj: ObjectDocument) -> list[tuple[Event, datetime]]:
    """Return the events from which a subscriber learns the state of an object, each with its time."""
    common = {
        "object_id": obj["_id"],
        "bucket_id": obj["bucket_id"],
        "namespace_id": obj["namespace_id"],
        "revision": obj["revision"],
    }
    mirror, run = obj["mirror"], obj["run"]
    created = ObjectCreated(
        **common,
        **event_state(obj),
        blob_count=len(obj["blobs"]),
        auto_process=obj["auto_process"],
        created_at=obj["created_at"],
    )
    events: list[tuple[Event, datetime]] = [(created, obj["created_at"])]
    if mirror["state"] != "pending":
        mirrored = ObjectMirrored(
            **common,
            auto_process=obj["auto_process"],
            failed=mirror["state"] == "failed",
            error=mirror.get("error"),
            blobs=[_build_mirrored_blob(blob) for blob in obj["blobs"] if blob["state"] != "pending"],
        )
        events.append((mirrored, mirror.get("at", obj["created_at"])))
    if obj["status"] != Status.DRAFT:
        at = obj.get("moved_at", obj["updated_at"])
        changed = ObjectStatusChanged(
            **common,
            batch_id=obj.get("batch_id"),
            run_id=run["id"],
            sequence=run["rank"],
            status=Status(obj["status"]),
            error=obj["error"],
            documents_total=obj.get("document_count", 0),
            occurred_at=at,
        )
        events.append((changed, at))
    return events


def _build_mirrored_blob(blob: BlobDocument) -> MirroredBlob:
    details, storage, state = blob["details"], blob["storage"], blob["state"]
    return MirroredBlob(
        blob_id=blob["blob_id"],
        property=blob["property"],
        state="none" if state == "pending" else state,
        sha256=details["hash"].removeprefix("sha256:") if details else None,
        size_bytes=details["size_bytes"] if details else None,
        duplicate=bool(storage and storage["duplicate"]),
    )


def _wrap(event: Event, obj: ObjectDocument, at: datetime) -> CloudEvent:
    run = obj["run"]
    event_id = derived("evt", event.type, obj["_id"], obj["revision"], run["id"], run["rank"])
    return encode_event(event, id=event_id, source=REPLAY, at=at)
