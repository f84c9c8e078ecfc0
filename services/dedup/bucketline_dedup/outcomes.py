"""Saves the outcome of mirroring an object and publishes its events.

The order makes a crash harmless, and every step can be repeated: content, blob record, object (compare-and-set on
``blobs_revision``), events. Where no Kafka record would be redelivered, the object stays in the queue until its events
are published.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from bucketline.blobs.s3 import S3BlobStore
from bucketline.db.blobs import blob_key
from bucketline.db.mirror_queue import MirrorQueue
from bucketline.db.objects import BlobDocument, Details, Mirror, ObjectDocument
from bucketline.domain.blob_sources import content_key
from bucketline.domain.status import RANK_FINAL, RANK_QUEUED, Status
from bucketline.errors import BucketlineError
from bucketline.events.cloudevents import CloudEvent
from bucketline.events.models import MirroredBlob, ObjectMirrored, ObjectStatusChanged
from bucketline.ids import derived
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import BLOB_BYTES, BLOBS, STAGE_SECONDS
from bucketline.service_context import ServiceContext
from bucketline_dedup.content_store import StoredContent

log = get_logger(__name__)

Traces = Mapping[str, Mapping[str, str]]
"""Trace contexts of the records, by object."""


class MirrorOutcomes:
    """Saves and publishes outcomes."""

    def __init__(self, context: ServiceContext, queue: MirrorQueue) -> None:
        self._context = context
        self._queue = queue

    async def save(self, objects: Sequence[ObjectDocument], *, publish_by: datetime | None) -> list[ObjectDocument]:
        """Write finished objects and return those to be published, as stored.

        An object that its producer has changed, or that another attempt has finished, is left alone. With
        ``publish_by`` the events are published after that time if this process does not.
        """
        if not await self._queue.save_outcomes(objects, publish_by=publish_by):
            stored = await self._queue.get_many([obj["_id"] for obj in objects])
            return [obj for obj in stored.values() if obj["mirror"]["state"] != "pending"]
        now = self._context.clock.now()
        for obj in objects:
            STAGE_SECONDS.labels("mirror").observe(max(0.0, (now - obj["updated_at"]).total_seconds()))
        return list(objects)

    async def publish(self, objects: Sequence[ObjectDocument], traces: Traces | None = None) -> None:
        """Publish ``object.mirrored`` of each object, and the statuses of drafts that no batch will publish."""
        events = [
            event for obj in objects for event in self._events(obj, (traces or {}).get(obj["_id"], obj.get("trace")))
        ]
        if events:
            await self._context.kafka.publisher.publish(events)

    async def mark_published(self, objects: Sequence[ObjectDocument]) -> None:
        """Record that the events of these objects are published."""
        await self._queue.mark_published([obj["_id"] for obj in objects])

    async def delete_staged(self, before: ObjectDocument, after: ObjectDocument) -> None:
        """Delete inline content that was staged for an object and is mirrored now. The reconciler finds the rest."""
        keys = [
            str(source["key"])
            for old, new in zip(before["blobs"], after["blobs"], strict=True)
            if (source := old["source"]) and source["kind"] == "staged" and new["source"] is None
        ]
        if not keys:
            return
        try:
            await self._context.blobs.delete(keys)
        except BucketlineError as error:
            log.warning("staged content not deleted", object_id=before["_id"], error=error.message)

    async def publish_recovery(self, obj: ObjectDocument) -> None:
        """Publish that a failed object continues: as a draft, or queued if it is processed automatically.

        This is published before the outcome is saved. Event ids are derived, so repeating it is harmless.
        """
        run = obj["run"]["id"] + 1
        if obj["auto_process"]:
            batch_id = derived("btch", obj["_id"], run)
            details: dict[str, object] = {
                "batch_id": batch_id,
                "run_id": run,
                "sequence": RANK_QUEUED,
                "status": Status.QUEUED,
            }
        else:
            details = {"run_id": run, "sequence": RANK_FINAL, "status": Status.DRAFT}
        await self._context.kafka.publisher.publish([self._status_event(obj, obj.get("trace"), details)])

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
            blobs=[_mirrored_blob(blob) for blob in obj["blobs"]],
        )
        events = [self._context.new_event(mirrored, trace=trace)]
        if obj["status"] != Status.DRAFT:
            return events
        if mirror["state"] == "failed":
            kind = "transient" if "dead_letter_event_id" in mirror else "permanent"
            details: dict[str, object] = {"status": Status.FAILED, "error": mirror.get("error"), "error_type": kind}
        elif "duplicate_of" in mirror:
            reason = f"skipped: {mirror['duplicate_of']} of this bucket has the same content"
            details = {"status": Status.SKIPPED, "error": reason}
        else:
            return events
        details |= {"run_id": obj["run"]["id"], "sequence": RANK_FINAL}
        return [*events, self._status_event(obj, trace, details)]

    def _status_event(
        self, obj: ObjectDocument, trace: Mapping[str, str] | None, details: dict[str, object]
    ) -> CloudEvent:
        common: dict[str, object] = {
            "object_id": obj["_id"],
            "bucket_id": obj["bucket_id"],
            "namespace_id": obj["namespace_id"],
            "revision": obj["revision"],
            "occurred_at": self._context.clock.now(),
        }
        return self._context.new_event(ObjectStatusChanged.model_validate(common | details), trace=trace)


def stored_blob(blob: BlobDocument, content: StoredContent, store: S3BlobStore) -> BlobDocument:
    """Return the blob with its content; its source is dropped."""
    details: Details = {
        "filename": content.filename,
        "size_bytes": content.size_bytes,
        "mime_type": content.mime_type,
        "hash": f"sha256:{content.sha256}",
    }
    if content.charset is not None:
        details["charset"] = content.charset
    key = blob_key(content.sha256)
    return {
        **blob,
        "state": "stored",
        "source": None,
        "error": None,
        "details": details,
        "storage": {"url": store.url_of(key), "key": key, "duplicate": content.duplicate},
    }


def linked_blob(blob: BlobDocument) -> BlobDocument:
    """Return the blob with its source left where it is, unread."""
    BLOBS.labels("linked").inc()
    return {**blob, "state": "linked", "error": None}


def blob_without_bytes(blob: BlobDocument) -> BlobDocument:
    """Return a blob that has only properties."""
    return {**blob, "state": "none", "source": None, "error": None}


def failed_blob(blob: BlobDocument, message: str) -> BlobDocument:
    """Return the blob with the reason; its source stays, so that it can be retried."""
    BLOBS.labels("failed").inc()
    return {**blob, "state": "failed", "error": message}


def count_content(content: StoredContent, *, read: bool = True) -> None:
    """Count received and new bytes; their ratio is what deduplication saves."""
    BLOBS.labels("duplicate" if content.duplicate else "stored").inc()
    BLOB_BYTES.labels("received").inc(content.size_bytes)
    BLOB_BYTES.labels("duplicate" if content.duplicate else "stored").inc(content.size_bytes)
    if not read:
        BLOB_BYTES.labels("unread").inc(content.size_bytes)


def with_outcome(obj: ObjectDocument, blobs: list[BlobDocument], now: datetime) -> ObjectDocument:
    """Return the object with these blobs: mirrored, or failed if one of them failed."""
    error = next((f"{blob['property']}: {blob['error']}" for blob in blobs if blob["state"] == "failed"), None)
    mirror: Mirror = {"state": "done" if error is None else "failed", "attempts": obj["mirror"]["attempts"], "at": now}
    if "claim" in obj["mirror"]:
        mirror["claim"] = obj["mirror"]["claim"]
    if error is not None:
        mirror["error"] = error
    finished: ObjectDocument = {**obj, "blobs": blobs, "mirror": mirror}
    if error is None and "content_key" not in obj and (key := _content_key(blobs)) is not None:
        finished["content_key"] = key
    return finished


def _content_key(blobs: Sequence[BlobDocument]) -> str | None:
    """Return the key that the ingest API computes for complete requests; None if a blob has no hash."""
    hashes = [(blob["property"], blob["details"]["hash"]) for blob in blobs if blob["details"] is not None]
    return content_key(hashes) if len(hashes) == len(blobs) else None


def _mirrored_blob(blob: BlobDocument) -> MirroredBlob:
    details, storage = blob["details"], blob["storage"]
    return MirroredBlob(
        blob_id=blob["blob_id"],
        property=blob["property"],
        state="none" if blob["state"] == "pending" else blob["state"],
        sha256=details["hash"].removeprefix("sha256:") if details else None,
        size_bytes=details["size_bytes"] if details else None,
        duplicate=bool(storage and storage["duplicate"]),
    )
