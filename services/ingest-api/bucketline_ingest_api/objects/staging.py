"""Resolves uploads that a request refers to, and stages inline content that is too large for a document in S3."""

import asyncio
from collections.abc import Sequence
from typing import cast

from bucketline.db.blobs import STAGED_INLINE
from bucketline.db.objects import ObjectDocument
from bucketline.domain.blob_sources import InlineSource, UploadSource
from bucketline.domain.schema import Location
from bucketline.domain.status import Status
from bucketline.errors import BucketlineError, ValidationFailed, ValidationIssue
from bucketline.observability.logging import get_logger
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.validation import BlobDraft

log = get_logger(__name__)

MAX_CONCURRENT_PUTS = 8


async def attach_uploads(deps: Container, bucket_id: str, drafts: Sequence[BlobDraft], location: Location) -> None:
    """Set the source of each blob that has an ``upload_id``.

    :class:`ValidationFailed` with one row for each upload that is not in this bucket or not confirmed.
    """
    wanted = {draft.source.upload_id for draft in drafts if isinstance(draft.source, UploadSource)}
    if not wanted:
        return
    uploads = {upload["_id"]: upload for upload in await deps.uploads.many_in_bucket(bucket_id, wanted)}
    faults = []
    for index, draft in enumerate(drafts):
        if not isinstance(draft.source, UploadSource):
            continue
        at = (*location, "blobs", index)
        upload = uploads.get(draft.source.upload_id)
        if upload is None:
            message = "there is no such upload in this bucket"
            faults.append(ValidationIssue("upload_not_found", (*at, "upload_id"), message))
            continue
        if upload["status"] != Status.COMPLETED:
            message = f"the upload is {upload['status']}: confirm it first"
            faults.append(ValidationIssue("upload_not_confirmed", (*at, "upload_id"), message))
            continue
        sha256 = upload.get("sha256")
        upload_hash = f"sha256:{sha256}" if sha256 else draft.hash
        if draft.hash not in (None, upload_hash):
            faults.append(ValidationIssue("checksum", (*at, "checksum"), "the checksum is not the upload's"))
        draft.hash = upload_hash
        draft.document["source"] = {
            "kind": "upload",
            "upload_id": upload["_id"],
            "key": upload["key"],
            "size": upload["size_bytes"],
            "sha256": sha256,
            "mime_type": upload["content_type"],
            "filename": upload["filename"],
        }
    if faults:
        raise ValidationFailed(faults)


class Staging:
    """Stages the large inline content of one request under the id of the object that will hold it.

    That object may change while requests race for a key; content under another id would be collected as garbage.
    """

    def __init__(self, deps: Container, drafts: Sequence[BlobDraft]) -> None:
        self._deps = deps
        self._drafts = drafts
        self._owner: str | None = None
        self._keys: list[str] = []

    async def stage_for(self, object_id: str) -> None:
        """Put inline content into S3, the largest first, until the document can hold the rest.

        Nothing is done if that has been done for this object. Each key is used once, so that versions of an object
        never share staged content.
        """
        if self._owner == object_id:
            return
        total = sum(draft.inline_size for draft in self._drafts)
        large = []
        for draft in sorted(self._drafts, key=lambda draft: draft.inline_size, reverse=True):
            if total <= self._deps.settings.inline_staging_threshold_bytes:
                break
            total -= draft.inline_size
            large.append(draft)
        slots = asyncio.Semaphore(MAX_CONCURRENT_PUTS)

        async def put(draft: BlobDraft) -> str:
            key = f"{STAGED_INLINE}/{object_id}/{draft.document['blob_id']}"
            details = draft.document["source"] or {}
            async with slots:
                content = await asyncio.to_thread(cast("InlineSource", draft.source).content)
                await self._deps.blobstore.put_if_absent(
                    key, content, sha256=str(details["sha256"]), content_type="application/octet-stream"
                )
            kept = {name: details.get(name) for name in ("size", "sha256", "mime_type", "filename")}
            draft.document["source"] = {"kind": "staged", "key": key, **kept}
            return key

        self._keys += await asyncio.gather(*(put(draft) for draft in large))
        self._owner = object_id

    async def discard_unused(self, obj: ObjectDocument | None) -> None:
        """Delete what the object does not refer to after all. None: no object was written."""
        used = staged_keys(obj) if obj is not None else []
        await discard_staged(self._deps, [key for key in self._keys if key not in used])


def staged_keys(obj: ObjectDocument) -> list[str]:
    """Return the keys of staged content that the object refers to."""
    sources = (blob["source"] for blob in obj["blobs"])
    return [str(source["key"]) for source in sources if source is not None and source.get("kind") == "staged"]


async def discard_staged(deps: Container, keys: Sequence[str]) -> None:
    """Delete staged content whose object was not written. What cannot be deleted is removed later, by its age."""
    if not keys:
        return
    try:
        await deps.blobstore.delete(keys)
    except BucketlineError as error:
        log.warning("staged content not deleted", keys=len(keys), error=error.message)
