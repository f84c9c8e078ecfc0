"""Uploads that are not wanted any more, by request or because nobody confirmed them.

A URL takes bytes until it expires, also when its upload is gone by then. So what is left of an upload until that moment
is its key, and a sweeper removes whatever was put there.
"""

from collections.abc import Sequence
from datetime import timedelta

from bucketline.db.uploads import DELETED, UploadDocument
from bucketline.domain.status import Status
from bucketline.errors import BadRequest, BucketlineError
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import SWEPT
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.uploads.create import GRACE

log = get_logger(__name__)

KEPT = timedelta(days=30)
"""How long the record of an upload that failed is there."""

_KEPT_STATUSES = (str(Status.COMPLETED), str(Status.PROCESSING))
EXPIRED = "not confirmed before it expired"


async def delete_upload(deps: Container, upload: UploadDocument, *, delete_bytes: bool) -> None:
    """Forgets an upload, and its bytes at once if asked to; else they go when its URL has expired.

    400 for one that was confirmed: objects may refer to it.
    """
    if not await deps.uploads.bury([upload], grace=GRACE, but=_KEPT_STATUSES):
        current = await deps.uploads.get_by_id(upload["_id"], fields=["status"])
        if current is not None:
            raise BadRequest(
                f"the upload is {current['status']} and cannot be deleted",
                code="upload_not_deletable",
                details={"upload_id": upload["_id"], "status": current["status"]},
            )
    if delete_bytes:
        await deps.blobstore.delete([upload["key"]])


async def forget_uploads(deps: Container, uploads: Sequence[UploadDocument]) -> None:
    """Forgets uploads of any status with their bytes: their bucket goes."""
    await deps.blobstore.delete([upload["key"] for upload in uploads])
    over = deps.clock.now() - GRACE
    closed = [upload["_id"] for upload in uploads if upload["expires_at"] < over]
    await deps.uploads.delete_by_ids(closed)
    await deps.uploads.bury([upload for upload in uploads if upload["expires_at"] >= over], grace=GRACE)


async def sweep_uploads(deps: Container) -> int:
    """Fails uploads that nobody confirmed in time, and forgets those that failed long ago; returns how many.

    Bytes that came all the same go both times: the first is at once, the second after any crash. So do bytes that were
    put to uploads that had been deleted.
    """
    now = deps.clock.now()
    due = await deps.uploads.due(now, limit=deps.reconcile.batch_size)
    if buried := {upload["_id"]: upload["key"] for upload in due if upload["status"] == DELETED}:
        await deps.blobstore.delete(buried.values())
        await deps.uploads.delete_by_ids(buried)
    for upload in due:
        if upload["_id"] in buried:
            continue
        if upload["status"] == Status.PROCESSING:
            # A task is at it, and that is never given up silently.
            later = {"due_at": now + timedelta(minutes=5)}
            await deps.uploads.change(upload["_id"], [str(Status.PROCESSING)], later)
        elif upload["status"] == Status.PENDING:
            changes = {"status": str(Status.FAILED), "message": EXPIRED, "due_at": now + KEPT}
            if await deps.uploads.change(upload["_id"], [str(Status.PENDING)], changes) is not None:
                await _discard(deps, upload)
        else:
            await _forget(deps, upload)
    SWEPT.labels("upload").inc(len(due))
    return len(due)


async def _forget(deps: Container, upload: UploadDocument) -> None:
    now = deps.clock.now()
    if upload["expires_at"] + KEPT > now:
        # Failed by its confirmation and not by its age: the record is kept as long as any.
        await deps.uploads.change(upload["_id"], [upload["status"]], {"due_at": upload["expires_at"] + KEPT})
        return
    if await _discard(deps, upload):
        await deps.uploads.delete_if(upload["_id"], upload["status"])


async def _discard(deps: Container, upload: UploadDocument) -> bool:
    try:
        await deps.blobstore.delete([upload["key"]])
    except BucketlineError as error:
        log.warning("bytes of an upload stay behind for now", upload_id=upload["_id"], error=error.message)
        return False
    return True
