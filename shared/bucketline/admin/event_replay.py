"""Says again what has become of stored objects, for a subscriber that was not there when it happened.

The events carry the same ids however often they are replayed, so a subscriber that keeps to ``(source, id)`` may see a
replay twice. Our own services take them like any duplicate: nothing is mirrored, processed or announced again. They
have no trace: that of the request is over, and may be forgotten.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from bucketline.clock import Clock, from_millis, millis
from bucketline.db.objects import BlobDocument, ObjectDocument, Objects
from bucketline.domain.status import Status
from bucketline.errors import BadRequest
from bucketline.events.cloudevents import REPLAY, CloudEvent, encode_event
from bucketline.events.models import Event, MirroredBlob, ObjectCreated, ObjectMirrored, ObjectStatusChanged
from bucketline.ids import derived
from bucketline.kafka.publisher import Publisher

PAGE = 200
COUNTED = 50_000
"""Objects counted in one step."""

_ORDER = (("created_at", 1), ("_id", 1))

Pause = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, order=True)
class ReplayCursor:
    """How far a replay got: the object's time of creation and its id. ``str`` gives what ``read`` takes."""

    created_at: datetime
    object_id: str

    def __str__(self) -> str:
        return f"{millis(self.created_at)}:{self.object_id}"

    @classmethod
    def read(cls, text: str) -> "ReplayCursor":
        moment, _, object_id = text.partition(":")
        try:
            if moment.isdecimal() and object_id:
                return cls(from_millis(int(moment)), object_id)
        except (ValueError, OverflowError, OSError):
            pass
        raise BadRequest(f"{text!r} is not a place that a replay has named")


@dataclass(frozen=True)
class ReplayProgress:
    """After each page: how many objects and events so far, and the place to resume from."""

    objects: int
    events: int
    place: ReplayCursor


class EventReplay:
    """Publishes the events of a bucket's objects, oldest first, at most ``rate`` objects a second."""

    def __init__(
        self, objects: Objects, publisher: Publisher, *, clock: Clock, rate: float, pause: Pause = asyncio.sleep
    ) -> None:
        self._objects = objects
        self._publisher = publisher
        self._clock = clock
        self._rate = rate
        self._pause = pause

    async def count(
        self, bucket_id: str, since: datetime, after: ReplayCursor | None = None, *, most: int | None = None
    ) -> int:
        """How many objects there are to tell of; with ``most`` no more than about that are counted.

        In steps, each of which is short: a bucket of any size can be counted.
        """
        total = 0
        while most is None or total < most:
            where = _where(bucket_id, since, after)
            found = await self._objects.collection.find(
                where, limit=1, skip=COUNTED - 1, sort=_ORDER, hint="listing", fields=["created_at"]
            )
            if not found:
                return total + await self._objects.collection.count(where, limit=COUNTED)
            total += COUNTED
            after = ReplayCursor(found[0]["created_at"], found[0]["_id"])
        return total

    async def run(
        self, bucket_id: str, since: datetime, after: ReplayCursor | None = None
    ) -> AsyncIterator[ReplayProgress]:
        """Tells of every object made at ``since`` or later, and after ``after``. What a page told is acknowledged.

        Objects that are made meanwhile are told of as well; each keeps its order, as its events share a key.
        """
        told = events = 0
        while True:
            page = await self._objects.collection.find(
                _where(bucket_id, since, after), limit=PAGE, sort=_ORDER, hint="listing"
            )
            if not page:
                return
            started = self._clock.now()
            envelopes = [envelope for obj in page for envelope in self._envelopes(obj)]
            await self._publisher.publish(envelopes)
            told, events = told + len(page), events + len(envelopes)
            after = ReplayCursor(page[-1]["created_at"], page[-1]["_id"])
            yield ReplayProgress(told, events, after)
            spent = (self._clock.now() - started).total_seconds()
            await self._pause(max(0.0, len(page) / self._rate - spent))

    def _envelopes(self, obj: ObjectDocument) -> list[CloudEvent]:
        return [_sealed(event, obj, at) for event, at in lifecycle_events(obj)]


def lifecycle_events(obj: ObjectDocument) -> list[tuple[Event, datetime]]:
    """What has become of an object, as events, each with the time at which it happened."""
    about = {
        "object_id": obj["_id"],
        "bucket_id": obj["bucket_id"],
        "namespace_id": obj["namespace_id"],
        "revision": obj["revision"],
    }
    mirror, run = obj["mirror"], obj["run"]
    happened: list[tuple[Event, datetime]] = [
        (
            ObjectCreated(
                **about,
                key_prefix=obj["key_prefix"],
                status=Status.QUEUED if obj["auto_process"] else Status.DRAFT,
                blob_count=len(obj["blobs"]),
                auto_process=obj["auto_process"],
                created_at=obj["created_at"],
            ),
            obj["created_at"],
        )
    ]
    if mirror["state"] != "pending":
        mirrored = ObjectMirrored(
            **about,
            auto_process=obj["auto_process"],
            failed=mirror["state"] == "failed",
            error=mirror.get("error"),
            blobs=[_told(blob) for blob in obj["blobs"] if blob["state"] != "pending"],
        )
        happened.append((mirrored, mirror.get("at", obj["created_at"])))
    if obj["status"] != Status.DRAFT:
        at = obj.get("moved_at", obj["updated_at"])
        changed = ObjectStatusChanged(
            **about,
            batch_id=obj.get("batch_id"),
            run_id=run["id"],
            sequence=run["rank"],
            status=Status(obj["status"]),
            error=obj["error"],
            documents_total=obj.get("document_count", 0),
            occurred_at=at,
        )
        happened.append((changed, at))
    return happened


def _told(blob: BlobDocument) -> MirroredBlob:
    details, storage, state = blob["details"], blob["storage"], blob["state"]
    return MirroredBlob(
        blob_id=blob["blob_id"],
        property=blob["property"],
        state="none" if state == "pending" else state,
        sha256=details["hash"].removeprefix("sha256:") if details else None,
        size_bytes=details["size_bytes"] if details else None,
        duplicate=bool(storage and storage["duplicate"]),
    )


def _sealed(event: Event, obj: ObjectDocument, at: datetime) -> CloudEvent:
    run = obj["run"]
    identity = derived("evt", event.type, obj["_id"], obj["revision"], run["id"], run["rank"])
    return encode_event(event, id=identity, source=REPLAY, at=at)


def _where(bucket_id: str, since: datetime, after: ReplayCursor | None) -> dict[str, object]:
    where: dict[str, object] = {"bucket_id": bucket_id, "created_at": {"$gte": since}}
    if after is not None and after.created_at >= since:
        where["created_at"] = {"$gte": after.created_at}
        where["$or"] = [{"created_at": {"$gt": after.created_at}}, {"_id": {"$gt": after.object_id}}]
    return where
