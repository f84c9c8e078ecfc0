"""What becomes of an object once its blobs are dealt with: one write, and what is said about it.

The order makes a crash harmless: content, its record, the object (compare-and-set on ``blobs_revision``), the events.
Where no record of the bus would come again, the object keeps ``mirror.due_at`` until the events are out.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from pymongo import UpdateOne

from bucketline.db.objects import BlobDocument, Mirror, ObjectDocument, Objects
from bucketline.domain.fingerprint import content_key
from bucketline.domain.status import RANK_FINAL, RANK_QUEUED, Status
from bucketline.errors import BucketlineError
from bucketline.events.cloudevents import CloudEvent
from bucketline.events.models import MirroredBlob, ObjectMirrored, ObjectStatusChanged
from bucketline.ids import derived
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import STAGE_SECONDS
from bucketline.service_context import ServiceContext

log = get_logger(__name__)

OTHERS_FIELDS = ("custom", "edges", "pending")
"""What dedup has no use for, up to 12 MiB an object: hundreds of objects are in its hands at a time."""

Traces = Mapping[str, Mapping[str, str]]
"""The trace that an object's record belongs to, by object."""


class MirrorOutcomes:
    """Writes outcomes and announces them."""

    def __init__(self, runtime: ServiceContext, objects: Objects) -> None:
        self._runtime = runtime
        self._objects = objects

    async def settle(self, objects: Sequence[ObjectDocument], *, owing_until: datetime | None) -> list[ObjectDocument]:
        """Writes blobs and ``mirror`` of settled objects; returns those to be announced, as they are stored.

        An object that its producer changed meanwhile, or that another turn settled first, is left alone. With
        ``owing_until`` a crash before the announcement is made good after that moment.
        """
        outcome = await self._objects.collection.bulk([_write(obj, owing_until) for obj in objects])
        if outcome.matched < len(objects):
            found = await self._objects.many([obj["_id"] for obj in objects], without=OTHERS_FIELDS)
            return [obj for obj in found.values() if obj["mirror"]["state"] != "pending"]
        now = self._runtime.clock.now()
        for obj in objects:
            STAGE_SECONDS.labels("mirror").observe(max(0.0, (now - obj["updated_at"]).total_seconds()))
        return list(objects)

    async def announce(self, objects: Sequence[ObjectDocument], traces: Traces) -> None:
        """Says ``object.mirrored`` of each, and what only dedup can say about its status."""
        events = [event for obj in objects for event in self._events(obj, traces.get(obj["_id"], obj.get("trace")))]
        if events:
            await self._runtime.bus.publisher.publish(events)

    async def announced(self, objects: Sequence[ObjectDocument]) -> None:
        """Nothing is owed any more."""
        await self._objects.collection.update_many(
            {"_id": {"$in": [obj["_id"] for obj in objects]}, "mirror.state": {"$ne": "pending"}},
            {"$unset": {"mirror.due_at": "", "mirror.claim": ""}},
        )

    async def forget_staged(self, before: ObjectDocument, with_outcome: ObjectDocument) -> None:
        """Deletes inline content that was staged for this object and is mirrored now. What stays, a sweeper finds."""
        keys = [
            str(source["key"])
            for old, new in zip(before["blobs"], with_outcome["blobs"], strict=True)
            if (source := old["source"]) and source["kind"] == "staged" and new["source"] is None
        ]
        if not keys:
            return
        try:
            await self._runtime.blobs.delete(keys)
        except BucketlineError as error:
            log.warning("staged content stays behind", object_id=before["_id"], error=error.message)

    async def give_back(self, obj: ObjectDocument) -> None:
        """An object that had failed for a source that was away goes on: as a draft, or queued where it was to run.

        Said before it is settled. Done again it says the same: the ids are derived.
        """
        run = obj["run"]["id"] + 1
        auto = obj["auto_process"]
        event = ObjectStatusChanged(
            object_id=obj["_id"],
            bucket_id=obj["bucket_id"],
            namespace_id=obj["namespace_id"],
            revision=obj["revision"],
            batch_id=derived("btch", obj["_id"], run) if auto else None,
            run_id=run,
            sequence=RANK_QUEUED if auto else RANK_FINAL,
            status=Status.QUEUED if auto else Status.DRAFT,
            occurred_at=self._runtime.clock.now(),
        )
        await self._runtime.bus.publisher.publish([self._runtime.seal(event, trace=obj.get("trace"))])

    def _events(self, obj: ObjectDocument, trace: Mapping[str, str] | None) -> list[CloudEvent]:
        mirror = obj["mirror"]
        mirrored = ObjectMirrored(
            object_id=obj["_id"],
            bucket_id=obj["bucket_id"],
            namespace_id=obj["namespace_id"],
            revision=obj["revision"],
            auto_process=obj["auto_process"],
            failed=mirror["state"] == "failed",
            error=mirror.get("error"),
            blobs=[_told(blob) for blob in obj["blobs"]],
        )
        events = [self._runtime.seal(mirrored, trace=trace)]
        # No batch will ever say these: they are about drafts.
        if obj["status"] == Status.DRAFT and mirror["state"] == "failed":
            kind = "transient" if "dead_letter_event_id" in mirror else "permanent"
            events.append(self._runtime.seal(self._final(obj, Status.FAILED, mirror.get("error"), kind), trace=trace))
        elif obj["status"] == Status.DRAFT and "duplicate_of" in mirror:
            why = f"skipped: {mirror['duplicate_of']} of this bucket has the same content"
            events.append(self._runtime.seal(self._final(obj, Status.SKIPPED, why, None), trace=trace))
        return events

    def _final(self, obj: ObjectDocument, status: Status, error: str | None, kind: str | None) -> ObjectStatusChanged:
        return ObjectStatusChanged.model_validate(
            {
                "object_id": obj["_id"],
                "bucket_id": obj["bucket_id"],
                "namespace_id": obj["namespace_id"],
                "revision": obj["revision"],
                "run_id": obj["run"]["id"],
                "sequence": RANK_FINAL,
                "status": status,
                "error": error,
                "error_type": kind,
                "occurred_at": self._runtime.clock.now(),
            }
        )


def with_outcome(obj: ObjectDocument, blobs: list[BlobDocument], now: datetime) -> ObjectDocument:
    """The object with its blobs dealt with: mirrored, or failed if one of them never can be."""
    error = next((f"{blob['property']}: {blob['error']}" for blob in blobs if blob["state"] == "failed"), None)
    mirror: Mirror = {"state": "done" if error is None else "failed", "attempts": obj["mirror"]["attempts"], "at": now}
    if "claim" in obj["mirror"]:
        mirror["claim"] = obj["mirror"]["claim"]
    if error is not None:
        mirror["error"] = error
    changed: ObjectDocument = {**obj, "blobs": blobs, "mirror": mirror}
    if error is None and "content_key" not in obj and (found := key_of_content(blobs)) is not None:
        changed["content_key"] = found
    return changed


def key_of_content(blobs: Sequence[BlobDocument]) -> str | None:
    """As the ingest API computes it where it has everything in its hands; None if a blob has no hash."""
    rows = [(blob["property"], blob["details"]["hash"]) for blob in blobs if blob["details"] is not None]
    return content_key(rows) if len(rows) == len(blobs) else None


def _write(obj: ObjectDocument, owing_until: datetime | None) -> UpdateOne:
    mirror: Mirror = {**obj["mirror"]}
    if owing_until is not None:
        mirror["due_at"] = owing_until
    else:
        mirror.pop("claim", None)
    fields: dict[str, object] = {"blobs": obj["blobs"], "mirror": mirror}
    if "content_key" in obj:
        fields["content_key"] = obj["content_key"]
    return UpdateOne(
        {"_id": obj["_id"], "blobs_revision": obj["blobs_revision"], "mirror.state": "pending"}, {"$set": fields}
    )


def _told(blob: BlobDocument) -> MirroredBlob:
    details, storage = blob["details"], blob["storage"]
    return MirroredBlob(
        blob_id=blob["blob_id"],
        property=blob["property"],
        state="none" if blob["state"] == "pending" else blob["state"],
        sha256=details["hash"].removeprefix("sha256:") if details else None,
        size_bytes=details["size_bytes"] if details else None,
        duplicate=bool(storage and storage["duplicate"]),
    )
