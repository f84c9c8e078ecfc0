"""Uploads: bytes that a client uploads directly to S3 under a key of their own and then confirms."""

from collections.abc import Collection as Group
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NotRequired, TypedDict

from pymongo import InsertOne, ReplaceOne

from bucketline.db.mongo import Index
from bucketline.db.repository import Repository
from bucketline.domain.status import Status


class UploadDocument(TypedDict):
    """An upload: PENDING until it is confirmed, then COMPLETED; FAILED if it was not confirmed in time.

    A deleted upload is :data:`DELETED` and belongs to no bucket as long as its URL accepts bytes; only ``key`` and
    ``due_at`` remain.

    ``size_bytes`` is the announced size, and the actual size after confirmation. ``file_hash`` is announced by the
    client and verified by S3, so at confirmation it becomes ``sha256``. ``due_at`` is when the reconciler checks an
    upload that is not COMPLETED.
    """

    _id: str
    namespace_id: str
    bucket_id: str
    key: str
    filename: str
    content_type: str
    size_bytes: int | None
    presigned_url_expiration: int
    metadata: Mapping[str, object] | None
    create_object: bool
    object_metadata: Mapping[str, object] | None
    blob_property: str
    blob_type: str | None
    file_hash: str | None
    skip_duplicates: bool
    status: str
    message: str | None
    created_at: datetime
    expires_at: datetime
    due_at: NotRequired[datetime]
    existing_object_id: NotRequired[str]
    sha256: NotRequired[str | None]
    etag: NotRequired[str]
    verified_at: NotRequired[datetime]
    completed_at: NotRequired[datetime]
    object_id: NotRequired[str]
    batch_id: NotRequired[str]
    task_id: NotRequired[str]


INDEXES = (
    Index("listing", [("bucket_id", 1), ("created_at", -1), ("_id", -1)]),
    Index("by_status", [("bucket_id", 1), ("status", 1), ("created_at", -1), ("_id", -1)]),
    Index("by_hash", [("bucket_id", 1), ("sha256", 1), ("_id", 1)], where={"sha256": {"$type": "string"}}),
    Index("due", [("due_at", 1)], where={"due_at": {"$exists": True}}),
)

DELETED = "BURIED"
CONFIRMABLE = (str(Status.PENDING), str(Status.PROCESSING))


class Uploads(Repository[UploadDocument]):
    """The repository of uploads."""

    name = "uploads"

    async def insert(self, documents: Sequence[UploadDocument]) -> None:
        """Insert the uploads in one round trip."""
        await self.collection.bulk([InsertOne(document) for document in documents])

    async def get(self, namespace_id: str, upload_id: str, bucket_id: str | None = None) -> UploadDocument | None:
        """Return the upload if it is in the namespace and, if given, in the bucket."""
        where: dict[str, object] = {"_id": upload_id, "namespace_id": namespace_id}
        if bucket_id is not None:
            where["bucket_id"] = bucket_id
        return await self.collection.find_one(where)

    async def confirmed(self, bucket_id: str, hashes: Sequence[str]) -> dict[str, UploadDocument]:
        """Return the oldest confirmed upload of the bucket for each of these hashes."""
        found: dict[str, UploadDocument] = {}
        for sha256 in dict.fromkeys(hashes):
            upload = await self.collection.find_one(
                {"bucket_id": bucket_id, "sha256": sha256, "status": str(Status.COMPLETED)}, sort=[("_id", 1)]
            )
            if upload is not None:
                found[sha256] = upload
        return found

    async def change(
        self, upload_id: str, statuses: Sequence[str], changes: Mapping[str, object], *, settled: bool = False
    ) -> UploadDocument | None:
        """Set fields if the status is one of these; ``settled`` removes the upload from the reconciler's queue."""
        update: dict[str, object] = {"$set": dict(changes)}
        if settled:
            update["$unset"] = {"due_at": ""}
        return await self.collection.find_and_update({"_id": upload_id, "status": {"$in": list(statuses)}}, update)

    async def bury(self, uploads: Sequence[UploadDocument], *, grace: timedelta, but: Sequence[str] = ()) -> int:
        """Reduce uploads to what is needed to delete their bytes; return how many.

        They are due ``grace`` after their URLs have expired. Uploads with a status in ``but`` are not changed.
        """
        writes = [
            ReplaceOne(
                {"_id": upload["_id"], "status": {"$nin": list(but)}},
                {"key": upload["key"], "status": DELETED, "due_at": upload["expires_at"] + grace},
            )
            for upload in uploads
        ]
        return (await self.collection.bulk(writes)).matched

    async def many_in_bucket(self, bucket_id: str, upload_ids: Group[str]) -> list[UploadDocument]:
        """Return the uploads of the bucket among these."""
        where = {"_id": {"$in": list(upload_ids)}, "bucket_id": bucket_id}
        return await self.collection.find(where, limit=len(upload_ids))

    async def page_of_bucket(self, bucket_id: str, *, limit: int) -> list[UploadDocument]:
        """Return any uploads of the bucket: their keys and when their URLs expire."""
        return await self.collection.find({"bucket_id": bucket_id}, limit=limit, fields=["key", "expires_at"])

    async def delete_if(self, upload_id: str, status: str) -> None:
        """Delete the upload if it has this status."""
        await self.collection.delete_one({"_id": upload_id, "status": status})

    async def key_of(self, upload_id: str) -> str | None:
        """Return where the bytes of the upload are stored; None if there is no such upload."""
        upload = await self.get_by_id(upload_id, fields=["key"])
        return str(upload["key"]) if upload and upload.get("key") else None

    async def find_due(self, now: datetime, *, limit: int) -> list[UploadDocument]:
        """Return uploads that the reconciler must check, the longest overdue first."""
        return await self.collection.find({"due_at": {"$lte": now}}, limit=limit, sort=[("due_at", 1)])
