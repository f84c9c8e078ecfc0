"""Mirroring state of objects: the fields of an object that the dedup service writes.

Writes are conditional on ``blobs_revision``, so that they never overwrite a change of the producer, and on the
mirroring state or the claim, so that an attempt that lost its object changes nothing.
"""

from collections.abc import Collection as Group
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from pymongo import UpdateOne

from bucketline.db.lease_queue import LeaseFields, LeaseQueue
from bucketline.db.mongo import Collection, Database
from bucketline.db.objects import BlobDocument, Mirror, ObjectDocument

QueueName = Literal["small", "large"]

UNUSED_FIELDS = ("custom", "edges", "pending")
"""Fields that mirroring does not read. They take up to 12 MiB per object, and hundreds of objects are in memory."""


class MirrorQueue:
    """The repository of mirroring states."""

    def __init__(self, database: Database) -> None:
        self._objects: Collection[ObjectDocument] = database.collection("objects")
        self._leases = LeaseQueue(self._objects, LeaseFields(owner="mirror.claim", due_at="mirror.due_at"))

    async def get_many(self, object_ids: Group[str]) -> dict[str, ObjectDocument]:
        """Return the existing objects by id, without the unused fields."""
        rows = await self._objects.find(
            {"_id": {"$in": list(object_ids)}}, limit=len(object_ids), without=UNUSED_FIELDS
        )
        return {row["_id"]: row for row in rows}

    async def enqueue(self, objects: Sequence[ObjectDocument], *, due_at: datetime, large: Group[str]) -> None:
        """Schedule pending objects that are not claimed; those in ``large`` go to the queue for large content."""
        await self._objects.bulk([_schedule(obj, due_at, None, obj["_id"] in large) for obj in objects])

    async def requeue(self, objects: Sequence[ObjectDocument], *, due_at: datetime, large: Group[str]) -> None:
        """Give up the claims of pending objects and schedule them for attempts of their own."""
        await self._objects.bulk(
            [_schedule(obj, due_at, obj["mirror"].get("claim"), obj["_id"] in large, attempts=1) for obj in objects]
        )

    async def find_due(self, now: datetime, queue: QueueName, *, limit: int) -> list[ObjectDocument]:
        """Return objects that are due and not claimed, the longest overdue first, without the unused fields."""
        return await self._leases.find_due(now, limit=limit, where=_queue_filter(queue), without=UNUSED_FIELDS)

    async def count_due(self, now: datetime, queue: QueueName, *, limit: int) -> int:
        """Return how many objects are due and not claimed, at most ``limit``, using the index only."""
        return await self._leases.count_due(now, limit=limit, where=_queue_filter(queue))

    async def claim(self, objects: Sequence[ObjectDocument], claim: str, *, until: datetime) -> set[str]:
        """Claim due objects as they were read; return those that neither a producer nor a replica changed since.

        ``claim`` must be new for each call.
        """
        return await self._leases.claim_many(objects, claim, until=until, unchanged=["blobs_revision"])

    async def renew(self, objects: Sequence[ObjectDocument], *, until: datetime) -> set[str]:
        """Extend the claims of objects; return those that are still claimed and that no producer has changed."""
        claims = {obj["_id"]: obj["mirror"].get("claim", "") for obj in objects}
        held = await self._leases.renew(claims, until=until)
        revisions = {obj["_id"]: obj["blobs_revision"] for obj in objects}
        rows = await self._objects.find({"_id": {"$in": list(held)}}, limit=len(held), fields=["blobs_revision"])
        return {row["_id"] for row in rows if row["blobs_revision"] == revisions[row["_id"]]}

    async def restart(self, objects: Mapping[str, ObjectDocument], event_ids: Mapping[str, str], now: datetime) -> None:
        """Start over with objects that were dead-lettered under these event ids; failed blobs become pending."""
        mirror: Mirror = {"state": "pending", "attempts": 0, "due_at": now}
        await self._objects.bulk(
            [
                UpdateOne(
                    {
                        "_id": object_id,
                        "blobs_revision": obj["blobs_revision"],
                        "mirror.state": "failed",
                        "mirror.dead_letter_event_id": event_ids[object_id],
                    },
                    {"$set": {"mirror": mirror, "blobs": [_reset_failed(blob) for blob in obj["blobs"]]}},
                )
                for object_id, obj in objects.items()
            ]
        )

    async def save_outcomes(self, objects: Sequence[ObjectDocument], *, publish_by: datetime | None) -> bool:
        """Write blobs and ``mirror`` of objects that were pending; return whether every one was written.

        With ``publish_by`` an object stays claimed until then, so that a crash before its events are published is
        repaired.
        """
        outcome = await self._objects.bulk([_outcome_update(obj, publish_by) for obj in objects])
        return outcome.matched == len(objects)

    async def mark_published(self, object_ids: Sequence[str]) -> None:
        """Remove finished objects, whose events are published, from the queue."""
        await self._objects.update_many(
            {"_id": {"$in": list(object_ids)}, "mirror.state": {"$ne": "pending"}},
            {"$unset": {"mirror.due_at": "", "mirror.claim": ""}},
        )

    async def reschedule(
        self,
        obj: ObjectDocument,
        *,
        due_at: datetime,
        blobs: Sequence[BlobDocument] | None = None,
        mirror: Mapping[str, object] | None = None,
    ) -> None:
        """Give up the claim of an object, keep the blobs of its attempt, and set fields of ``mirror``."""
        fields: dict[str, object] = {f"mirror.{name}": value for name, value in (mirror or {}).items()}
        if blobs is not None:
            fields["blobs"] = list(blobs)
        await self._leases.reschedule(
            obj["_id"],
            obj["mirror"].get("claim"),
            due_at=due_at,
            changes={"$set": fields},
            where={"blobs_revision": obj["blobs_revision"]},
        )

    async def has_content(self, sha256: str, *, namespace_id: str | None = None, bucket_id: str | None = None) -> bool:
        """Return whether an object of the namespace or bucket has content with this hash."""
        scope = {"namespace_id": namespace_id} if namespace_id is not None else {"bucket_id": bucket_id}
        where = {"blobs.details.hash": f"sha256:{sha256}", **scope}
        return await self._objects.find_one(where, fields=["_id"]) is not None

    async def find_older_duplicate(self, obj: ObjectDocument) -> str | None:
        """Return the oldest object of the bucket with the same content that is older than ``obj``."""
        if "content_key" not in obj:
            return None
        oldest = await self._objects.find_one(
            {"bucket_id": obj["bucket_id"], "content_key": obj["content_key"], "_id": {"$lt": obj["_id"]}},
            fields=["_id"],
            sort=[("_id", 1)],
        )
        return oldest["_id"] if oldest else None


def _queue_filter(queue: QueueName) -> dict[str, object]:
    return {"mirror.lane": None if queue == "small" else queue}


def _schedule(obj: ObjectDocument, due_at: datetime, claim: str | None, large: bool, *, attempts: int = 0) -> UpdateOne:
    fields: dict[str, object] = {"mirror.due_at": due_at}
    if large:
        fields["mirror.lane"] = "large"
    return UpdateOne(
        {
            "_id": obj["_id"],
            "blobs_revision": obj["blobs_revision"],
            "mirror.state": "pending",
            "mirror.claim": claim,
        },
        {"$set": fields, "$max": {"mirror.attempts": attempts}, "$unset": {"mirror.claim": ""}},
    )


def _reset_failed(blob: BlobDocument) -> BlobDocument:
    if blob["state"] != "failed" or blob["source"] is None:
        return blob
    return {**blob, "state": "pending", "error": None}


def _outcome_update(obj: ObjectDocument, publish_by: datetime | None) -> UpdateOne:
    mirror: Mirror = {**obj["mirror"]}
    if publish_by is not None:
        mirror["due_at"] = publish_by
    else:
        mirror.pop("claim", None)
    fields: dict[str, object] = {"blobs": obj["blobs"], "mirror": mirror}
    if "content_key" in obj:
        fields["content_key"] = obj["content_key"]
    return UpdateOne(
        {"_id": obj["_id"], "blobs_revision": obj["blobs_revision"], "mirror.state": "pending"}, {"$set": fields}
    )
