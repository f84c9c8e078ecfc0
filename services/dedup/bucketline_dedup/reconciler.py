"""Removes what interrupted transfers left in the bucket: multipart uploads, staging objects and staged inline content.

The key of a staging object names its object and the claim of its attempt, so it is an orphan once that claim has ended,
however long a transfer may take. Objects that are due are found by the scheduler.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bucketline.db.blobs import STAGED_INLINE
from bucketline.db.objects import ObjectDocument, Objects
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import SWEPT
from bucketline.service_context import ServiceContext
from bucketline_dedup.content_store import STAGING
from bucketline_dedup.settings import DedupSettings

log = get_logger(__name__)

CONTENT_PREFIX = "blobs/"
PAGE_SIZE = 500


@dataclass(frozen=True, slots=True)
class _Leftover:
    key: str
    created_at: datetime
    upload_id: str = ""


class Reconciler:
    """Deletes orphans, one page at a time. Safe to run in every replica."""

    def __init__(self, context: ServiceContext, objects: Objects, settings: DedupSettings) -> None:
        self._context = context
        self._objects = objects
        self._settings = settings
        self._cursors: dict[str, str | None] = {}

    async def reconcile_staging(self) -> int:
        """Check the next page of uploads and staging objects; return how many were removed."""
        removed = await self._abort_uploads() + await self._delete_staged()
        SWEPT.labels("staging").inc(removed)
        return removed

    async def _abort_uploads(self) -> int:
        """Abort multipart uploads, into staging keys and of server-side copies, that will never be completed."""
        uploads = [
            _Leftover(upload.key, upload.started_at, upload.upload_id)
            for prefix in (f"{STAGING}/", CONTENT_PREFIX)
            for upload in await self._context.blobs.list_multipart(prefix, limit=PAGE_SIZE)
        ]
        orphans = await self._find_orphans(uploads)
        for orphan in orphans:
            log.info("orphaned upload aborted", key=orphan.key)
            await self._context.blobs.abort_multipart(orphan.key, orphan.upload_id)
        return len(orphans)

    async def _delete_staged(self) -> int:
        removed = 0
        for prefix in (f"{STAGING}/", f"{STAGED_INLINE}/"):
            page = await self._context.blobs.list(prefix, limit=PAGE_SIZE, after=self._cursors.get(prefix))
            self._cursors[prefix] = page[-1].key if len(page) == PAGE_SIZE else None
            orphans = await self._find_orphans([_Leftover(row.key, row.last_modified) for row in page])
            if orphans:
                log.info("orphaned staging objects deleted", prefix=prefix, count=len(orphans))
                await self._context.blobs.delete([orphan.key for orphan in orphans])
            removed += len(orphans)
        return removed

    async def _find_orphans(self, leftovers: Sequence[_Leftover]) -> list[_Leftover]:
        now = self._context.clock.now()
        youngest = now - timedelta(seconds=self._settings.staging_cleanup_min_age_seconds)
        old = [row for row in leftovers if row.created_at < youngest]
        ids = {row.key.split("/")[2] for row in old if row.key.startswith("staging/") and row.key.count("/") >= 3}
        owners: Mapping[str, ObjectDocument] = {}
        if ids:
            fields = ["mirror", "blobs.blob_id", "blobs.source.kind", "blobs.source.key"]
            owners = await self._objects.get_many(list(ids), fields=fields)
        expired = now - timedelta(seconds=self._settings.staging_ttl_seconds)
        return [row for row in old if _is_orphan(row, owners, expired)]


def _is_orphan(row: _Leftover, owners: Mapping[str, ObjectDocument], expired: datetime) -> bool:
    if not row.key.startswith("staging/"):
        return row.created_at < expired
    _, kind, object_id, *rest = row.key.split("/")
    obj = owners.get(object_id)
    if kind == "dedup":
        return obj is None or obj["mirror"].get("claim") != rest[0]
    # Inline content is staged before its object is written, so its owner may not exist yet.
    in_use = obj is not None and any((blob.get("source") or {}).get("key") == row.key for blob in obj["blobs"])
    return not in_use and row.created_at < expired
