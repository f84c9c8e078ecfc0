"""Sweeping up what broken transfers left in the bucket: open multipart uploads, staging objects, staged content.

A staging key names its object and its turn. It is an orphan once that turn no longer has the object, which is seen
without guessing at how long a transfer may take.
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

CONTENT = "blobs/"
PAGE = 500


@dataclass(frozen=True, slots=True)
class _Leftover:
    key: str
    since: datetime
    upload_id: str | None = None


class StagingCleanup:
    """Removes orphans, a page at a time. Safe to run in every replica."""

    def __init__(self, runtime: ServiceContext, objects: Objects, settings: DedupSettings) -> None:
        self._runtime = runtime
        self._objects = objects
        self._settings = settings
        self._after: dict[str, str | None] = {}

    async def step(self) -> int:
        """Looks at the next page of each kind; returns how many were removed."""
        removed = await self._uploads() + await self._staged()
        SWEPT.labels("staging").inc(removed)
        return removed

    async def _uploads(self) -> int:
        """Multipart uploads that nobody completes: ours into staging, and server-side copies into place."""
        open_uploads = [
            _Leftover(upload.key, upload.started_at, upload.upload_id)
            for prefix in (f"{STAGING}/", CONTENT)
            for upload in await self._runtime.blobs.list_multipart(prefix, limit=PAGE)
        ]
        orphans = await self._orphans(open_uploads)
        for orphan in orphans:
            log.info("aborted an orphaned upload", key=orphan.key)
            await self._runtime.blobs.abort_multipart(orphan.key, orphan.upload_id or "")
        return len(orphans)

    async def _staged(self) -> int:
        removed = 0
        for prefix in (f"{STAGING}/", f"{STAGED_INLINE}/"):
            listed = await self._runtime.blobs.list(prefix, limit=PAGE, after=self._after.get(prefix))
            self._after[prefix] = listed[-1].key if len(listed) == PAGE else None
            orphans = await self._orphans([_Leftover(row.key, row.last_modified) for row in listed])
            if orphans:
                log.info("deleted staged content without an owner", prefix=prefix, count=len(orphans))
                await self._runtime.blobs.delete([orphan.key for orphan in orphans])
            removed += len(orphans)
        return removed

    async def _orphans(self, found: Sequence[_Leftover]) -> list[_Leftover]:
        now = self._runtime.clock.now()
        settled = now - timedelta(seconds=self._settings.staging_cleanup_min_age_seconds)
        old = [row for row in found if row.since < settled]
        ids = {row.key.split("/")[2] for row in old if row.key.startswith("staging/") and row.key.count("/") >= 3}
        owners: Mapping[str, ObjectDocument] = {}
        if ids:
            fields = ["mirror", "blobs.blob_id", "blobs.source.kind", "blobs.source.key"]
            owners = await self._objects.many(list(ids), fields=fields)
        expired = now - timedelta(seconds=self._settings.staging_ttl_seconds)
        return [row for row in old if _is_orphan(row, owners, expired)]


def _is_orphan(row: _Leftover, owners: Mapping[str, ObjectDocument], expired: datetime) -> bool:
    if not row.key.startswith("staging/"):
        return row.since < expired
    _, kind, object_id, *rest = row.key.split("/")
    obj = owners.get(object_id)
    if kind == "dedup":
        return obj is None or obj["mirror"].get("claim") != rest[0]
    # Inline content is staged before its object is written, so its owner may be still to come.
    held = obj is not None and any((blob.get("source") or {}).get("key") == row.key for blob in obj["blobs"])
    return not held and row.since < expired
