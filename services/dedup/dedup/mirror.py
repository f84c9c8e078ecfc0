"""Mirroring: every blob of an object gets into our S3 under the hash of its bytes, once.

The order of the effects is what makes a crash harmless: content first (put if absent), then its record, then the
object (compare-and-set on ``blobs_revision``), then the event. Each may be done again.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pymongo import UpdateOne

from bucketline.domain.source import InlineSource, PropertiesSource, Source, from_document
from bucketline.domain.status import RANK_FINAL, Status
from bucketline.errors import StoreUnavailable
from bucketline.events.catalog import MirroredBlob, ObjectMirrored, ObjectStatusChanged
from bucketline.events.envelope import Envelope
from bucketline.runtime import Runtime
from bucketline.storage.blobs import Blobs, blob_key
from bucketline.storage.objects import BlobDocument, Details, Mirror, ObjectDocument, Objects
from bucketline.telemetry.metrics import BLOB_BYTES, BLOBS
from dedup.errors import SourceError
from dedup.settings import DedupSettings
from dedup.sniff import media_type


@dataclass(frozen=True)
class Mirrored:
    """An object with what became of its blobs. ``failure`` is the first permanent error, None if all is well."""

    obj: ObjectDocument
    blobs: list[BlobDocument]
    failure: str | None


class Mirroring:
    """Mirrors objects, many at a time."""

    def __init__(self, runtime: Runtime, settings: DedupSettings) -> None:
        self._runtime = runtime
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.concurrency)
        self.objects = Objects(runtime.database)
        self.records = Blobs(runtime.database)

    async def mirror(self, objects: Sequence[ObjectDocument], traces: Mapping[str, Mapping[str, str]]) -> None:
        """Mirrors what is pending, and says ``object.mirrored`` of every object that is settled."""
        pending = [o for o in objects if o["mirror"]["state"] == "pending"]
        outcomes = await asyncio.gather(*(self._object(o) for o in pending), return_exceptions=True)
        done = [outcome for outcome in outcomes if isinstance(outcome, Mirrored)]
        await self._record(done)
        settled = [_after(outcome, self._runtime.clock.now()) for outcome in done]
        said = [o for o in objects if o["mirror"]["state"] != "pending"] + settled
        await self._runtime.bus.publisher.publish([e for o in said for e in self._events(o, traces.get(o["_id"]))])
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _object(self, obj: ObjectDocument) -> Mirrored:
        blobs = []
        failure = None
        for blob in obj["blobs"]:
            mirrored = blob if blob["state"] != "pending" else await self._blob(blob)
            failure = failure or mirrored["error"]
            blobs.append(mirrored)
        return Mirrored(obj, blobs, failure)

    async def _blob(self, blob: BlobDocument) -> BlobDocument:
        source = from_document(blob["source"] or {})
        if isinstance(source, PropertiesSource):
            return {**blob, "state": "none", "source": None}
        async with self._slots:
            try:
                return await self._store(blob, source)
            except SourceError as error:
                if not error.permanent:
                    raise StoreUnavailable("the source does not answer") from error
                BLOBS.labels("failed").inc()
                return {**blob, "state": "failed", "error": error.message}

    async def _store(self, blob: BlobDocument, source: Source) -> BlobDocument:
        if not isinstance(source, InlineSource):
            raise StoreUnavailable("not an inline source")
        content = source.content()
        sha256 = await _hash(content)
        filename = getattr(source, "filename", None)
        declared = getattr(source, "media_type", None) or getattr(source, "mime_type", None)
        kind = media_type(content[:8192], declared=declared, filename=filename)
        key = blob_key(sha256)
        written = await self._runtime.blobs.put_if_absent(key, content, sha256=sha256, content_type=kind)
        BLOBS.labels("stored" if written else "duplicate").inc()
        BLOB_BYTES.labels("hashed").inc(len(content))
        if written:
            BLOB_BYTES.labels("stored").inc(len(content))
        details: Details = {
            "filename": filename,
            "size_bytes": len(content),
            "mime_type": kind,
            "hash": f"sha256:{sha256}",
        }
        return {
            **blob,
            "state": "stored",
            "source": None,
            "details": details,
            "storage": {"url": self._runtime.blobs.url_of(key), "key": key, "duplicate": not written},
        }

    async def _record(self, outcomes: Sequence[Mirrored]) -> None:
        """Writes content records, then objects, one round trip each."""
        now = self._runtime.clock.now()
        stored = {
            blob["details"]["hash"].removeprefix("sha256:"): blob
            for outcome in outcomes
            for blob in outcome.blobs
            if blob["details"] is not None and blob["storage"] is not None
        }
        await self.records.collection.bulk([_content(sha256, blob, now) for sha256, blob in stored.items()])
        await self.objects.collection.bulk(
            [
                UpdateOne(
                    {"_id": o.obj["_id"], "blobs_revision": o.obj["blobs_revision"], "mirror.state": "pending"},
                    {"$set": {"blobs": o.blobs, "mirror": _mirror(o, now)}},
                )
                for o in outcomes
            ]
        )

    def _events(self, obj: ObjectDocument, trace: Mapping[str, str] | None) -> list[Envelope]:
        failed = obj["mirror"]["state"] == "failed"
        error = obj["mirror"].get("error")
        mirrored = ObjectMirrored(
            object_id=obj["_id"],
            bucket_id=obj["bucket_id"],
            namespace_id=obj["namespace_id"],
            revision=obj["revision"],
            auto_process=obj["auto_process"],
            failed=failed,
            error=error,
            blobs=[_told(blob) for blob in obj["blobs"]],
        )
        events = [self._runtime.seal(mirrored, trace=trace)]
        if failed and obj["status"] == Status.DRAFT:
            # No batch will ever say it: the draft itself has failed.
            status = ObjectStatusChanged(
                object_id=obj["_id"],
                bucket_id=obj["bucket_id"],
                namespace_id=obj["namespace_id"],
                revision=obj["revision"],
                run=obj["run"]["id"],
                rank=RANK_FINAL,
                status=Status.FAILED,
                error=error,
                error_type="permanent",
                at=self._runtime.clock.now(),
            )
            events.append(self._runtime.seal(status, trace=trace))
        return events

    async def sweep(self) -> int:
        """Mirrors what has been due for a while; returns how many objects it took up."""
        now = self._runtime.clock.now()
        limit = self._runtime.settings.sweep.limit
        due = await self.objects.collection.find(
            {"mirror.due_at": {"$lt": now}}, limit=limit, sort=[("mirror.due_at", 1)]
        )
        claimed = []
        for obj in due:
            wait = min(self._settings.longest_backoff, 15.0 * 2 ** obj["mirror"]["attempts"])
            mine = await self.objects.collection.update_one(
                {"_id": obj["_id"], "mirror.due_at": obj["mirror"].get("due_at")},
                {"$set": {"mirror.due_at": now + timedelta(seconds=wait)}, "$inc": {"mirror.attempts": 1}},
            )
            if mine:
                claimed.append(obj)
        if claimed:
            await self.mirror(claimed, {o["_id"]: o.get("trace", {}) for o in claimed})
        return len(claimed)


async def _hash(content: bytes) -> str:
    if len(content) < 256 * 1024:
        return hashlib.sha256(content).hexdigest()
    return await asyncio.to_thread(lambda: hashlib.sha256(content).hexdigest())


def _mirror(outcome: Mirrored, now: datetime) -> Mirror:
    attempts = outcome.obj["mirror"]["attempts"] + 1
    if outcome.failure is not None:
        return {"state": "failed", "attempts": attempts, "error": outcome.failure, "at": now}
    return {"state": "done", "attempts": attempts, "at": now}


def _after(outcome: Mirrored, now: datetime) -> ObjectDocument:
    return {**outcome.obj, "blobs": outcome.blobs, "mirror": _mirror(outcome, now)}


def _content(sha256: str, blob: BlobDocument, now: datetime) -> UpdateOne:
    details, storage = blob["details"], blob["storage"]
    first = {
        "key": storage["key"] if storage else blob_key(sha256),
        "size_bytes": details["size_bytes"] if details else 0,
        "mime_type": details["mime_type"] if details else "application/octet-stream",
        "created_at": now,
        "state": "live",
    }
    return UpdateOne({"_id": sha256}, {"$setOnInsert": first, "$max": {"touched_at": now}}, upsert=True)


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
