"""Garbage collection: deletes content that no object and no document refers to, after a grace period.

Safe while everything runs, and from several places at once. References are looked up by index, not counted, so no
missed decrement can do harm. Writers follow the rules of :mod:`bucketline.db.blobs`; the collector follows these:

1. it looks only at records whose last touch is older than the grace period;
2. it marks unreferenced content as *deleting*, by compare-and-set on that touch; from then on no writer refers to it;
3. it looks up the references again, because one may have been written between the first look-up and the mark;
4. it deletes the content, and then the record.

If a collector dies after step 2, a later run finishes the deletion after ``deleting_until``, unless a writer that needs
the content makes the record live again. A collector that was suspended for longer than ``MARK_VALID_SECONDS`` leaves
the deletion to a later run.

A crash may leave content without a record. It gets a record and is kept for another grace period. Where the database
knows little of the bucket (a typo in its name, another deployment's bucket, an old backup) that is most of the content,
so a run does nothing unless the database and the bucket belong together: both contain the id of the deployment, and the
database knows most of a sample of the bucket. The content is listed by its hash, so the first page is a fair sample.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bucketline.blobs.s3 import S3BlobStore
from bucketline.blobs.store import ObjectMissing
from bucketline.clock import Clock
from bucketline.db.blobs import MIN_GRACE, BlobRecord, Blobs, Deployments, NewContent, blob_key
from bucketline.db.documents import Documents
from bucketline.db.job_cursors import BEGINNING, GcCursor
from bucketline.db.mongo import Database
from bucketline.db.objects import Objects
from bucketline.errors import BucketlineError, DependencyUnavailable
from bucketline.ids import Ids
from bucketline.observability.logging import get_logger

log = get_logger(__name__)

PAGE = 200
MAX_LOOKUPS = 16
"""Concurrent look-ups of references."""
MARK_DURATION = timedelta(seconds=120)
MARK_VALID_SECONDS = 30.0
"""The deletion must begin within this time after the mark, and end within the same time after that."""

CONTENT_PREFIX = "blobs/sha256/"
DEPLOYMENT_KEY = "deployment"
"""Key of the object in the bucket that contains the id of the deployment."""
MAX_DEPLOYMENT_ID_BYTES = 200
MIN_UNKNOWN = 10
"""Fewer unknown blobs, or less than half of the sample, may be what crashes have left behind."""


class ForeignBucketError(BucketlineError):
    """The bucket and the database do not seem to belong together. Nothing was changed."""

    retryable = False


@dataclass(frozen=True, slots=True)
class References:
    """How many objects and documents refer to some content."""

    objects: int
    documents: int


@dataclass
class Report:
    """What a run has done so far; a dry run counts what it would have deleted and recovered.

    ``listed`` counts objects in the bucket and ``examined`` records that were old enough. ``recovered`` content had no
    record. ``skipped`` content was used again during the run. ``cursor`` is where the next run should begin.
    ``ownership_conflict`` is why a run that is not dry would refuse to start.
    """

    listed: int = 0
    examined: int = 0
    referenced: int = 0
    deleted: int = 0
    deleted_bytes: int = 0
    recovered: int = 0
    recovered_bytes: int = 0
    skipped: int = 0
    cursor: GcCursor = BEGINNING
    ownership_conflict: str | None = None


OnPage = Callable[[Report], bool]
"""Called after each page; returns whether to continue."""


class GarbageCollector:
    """Deletes unreferenced content. Raises DependencyUnavailable when a store is away; a later run continues."""

    def __init__(self, database: Database, store: S3BlobStore, *, clock: Clock, ids: Ids, grace: timedelta) -> None:
        if grace < MIN_GRACE:
            raise ValueError(f"the grace period must be at least {MIN_GRACE}")
        self._blobs = Blobs(database)
        self._objects = Objects(database)
        self._documents = Documents(database)
        self._deployments = Deployments(database)
        self._store = store
        self._clock = clock
        self._ids = ids
        self._grace = grace
        self._lookups = asyncio.Semaphore(MAX_LOOKUPS)

    async def references(self, sha256: str) -> References:
        """Count the references to some content. The numbers may be out of date when they are returned."""
        return References(
            objects=await self._objects.count_references(sha256),
            documents=await self._documents.count_references(sha256),
        )

    async def run(
        self,
        *,
        dry_run: bool = False,
        scan_bucket: bool = True,
        claim_bucket: bool = False,
        begin: GcCursor = BEGINNING,
        on_page: OnPage = lambda _: True,
    ) -> Report:
        """Process everything from ``begin`` to the end, or until ``on_page`` returns false.

        ``scan_bucket`` also looks for content without a record. Raises ForeignBucketError when the database and the
        bucket do not seem to belong together, unless ``claim_bucket`` confirms that they do or the run is dry.
        """
        report = Report(ownership_conflict=None if claim_bucket else await self._find_ownership_conflict())
        if not dry_run:
            if report.ownership_conflict is not None:
                raise ForeignBucketError(report.ownership_conflict)
            await self.claim_bucket()
            while abandoned := await self._blobs.abandoned(self._clock.now(), limit=PAGE):
                await self._delete(abandoned, report)
        if scan_bucket and begin.record is None and not await self._recover(begin.listed, report, on_page, dry_run):
            return report
        await self._collect(begin.record, report, on_page, dry_run)
        return report

    async def claim_bucket(self) -> None:
        """Store the id of this deployment in the bucket, which then belongs to no other database. Idempotent."""
        own_id = await self._deployments.ensure_id(self._ids.new("req"))
        bucket_id = await self._read_bucket_id()
        if bucket_id == own_id:
            return
        if bucket_id is not None:
            await self._store.delete([DEPLOYMENT_KEY])
        data = own_id.encode()
        sha256 = hashlib.sha256(data).hexdigest()
        await self._store.put_if_absent(DEPLOYMENT_KEY, data, sha256=sha256, content_type="text/plain")

    async def _find_ownership_conflict(self) -> str | None:
        """Return why the database and the bucket do not belong together; None when they seem to."""
        own_id, bucket_id = await self._deployments.current_id(), await self._read_bucket_id()
        if bucket_id is not None and bucket_id != own_id:
            if own_id is None:
                return f"the bucket has the deployment id {bucket_id}, but this database has never been used with it"
            return f"the bucket belongs to another deployment: its id is {bucket_id}, that of the database is {own_id}"
        before = self._clock.now() - self._grace
        listed = await self._store.list(CONTENT_PREFIX, limit=PAGE)
        sample = {_hash_of(row.key) for row in listed if row.last_modified < before}
        unknown = len(sample) - len(await self._blobs.known(sample))
        if unknown >= MIN_UNKNOWN and unknown * 2 > len(sample):
            return f"the database has no record of {unknown} of {len(sample)} blobs that were sampled in the bucket"
        return None

    async def _read_bucket_id(self) -> str | None:
        try:
            data = await self._store.read(DEPLOYMENT_KEY, limit=MAX_DEPLOYMENT_ID_BYTES)
        except ObjectMissing:
            return None
        return data.decode(errors="replace")

    async def _recover(self, after: str | None, report: Report, on_page: OnPage, dry_run: bool) -> bool:
        """Create records of old content without one. Return whether the whole bucket was listed.

        The records are as good as new, so that there is time to notice that this is the wrong database.
        """
        now = self._clock.now()
        while listed := await self._store.list(CONTENT_PREFIX, limit=PAGE, after=after):
            after = listed[-1].key
            old = {_hash_of(row.key): row for row in listed if row.last_modified < now - self._grace}
            unknown = {sha256: old[sha256] for sha256 in old.keys() - await self._blobs.known(old)}
            if unknown and not dry_run:
                contents = [NewContent(sha, row.size, "application/octet-stream") for sha, row in unknown.items()]
                await self._blobs.record(contents, now)
            report.listed += len(listed)
            report.recovered += len(unknown)
            report.recovered_bytes += sum(row.size for row in unknown.values())
            if not on_page(report):
                report.cursor = GcCursor(listed=after)
                return False
        return True

    async def _collect(
        self, after: tuple[datetime, str] | None, report: Report, on_page: OnPage, dry_run: bool
    ) -> None:
        before = self._clock.now() - self._grace
        while page := await self._blobs.unused_since(before, after=after, limit=PAGE):
            await self._collect_page(page, report, dry_run)
            after = page[-1]["touched_at"], page[-1]["_id"]
            if not on_page(report):
                report.cursor = GcCursor(record=after)
                return

    async def _collect_page(self, page: Sequence[BlobRecord], report: Report, dry_run: bool) -> None:
        unreferenced = await self._select_unreferenced(page)
        report.examined += len(page)
        report.referenced += len(page) - len(unreferenced)
        if dry_run:
            _count_deleted(report, unreferenced)
        elif unreferenced:
            await self._delete(unreferenced, report)

    async def _delete(self, records: Sequence[BlobRecord], report: Report) -> None:
        """Delete the records and their content, except for what is referenced or was touched since it was read."""
        marked_at, collector = time.monotonic(), self._ids.new("req")
        until = self._clock.now() + MARK_DURATION
        marked = await self._blobs.mark_deleting(records, until=until, collector=collector)
        unreferenced = await self._select_unreferenced(marked)
        hashes = {record["_id"] for record in unreferenced}
        if referenced := {record["_id"] for record in marked} - hashes:
            await self._blobs.cancel_deletion(referenced, collector)
        report.skipped += len(records) - len(unreferenced)
        if not unreferenced:
            return
        # A process that was stopped sees it on the monotonic clock, a machine that was suspended only on the other one.
        if time.monotonic() - marked_at > MARK_VALID_SECONDS or self._clock.now() > until - MARK_DURATION / 2:
            log.warning("deletion postponed to a later run because the mark is too old", count=len(unreferenced))
            return
        try:
            async with asyncio.timeout(MARK_VALID_SECONDS):
                await self._store.delete([blob_key(sha256) for sha256 in hashes])
        except TimeoutError:
            raise DependencyUnavailable("S3 did not delete in time") from None
        await self._blobs.finish_deletion(hashes, collector)
        _count_deleted(report, unreferenced)

    async def _select_unreferenced(self, records: Sequence[BlobRecord]) -> list[BlobRecord]:
        """Return the records whose content neither an object nor a document refers to."""

        async def is_referenced(sha256: str) -> bool:
            async with self._lookups:
                return await self._objects.refers_to(sha256) or await self._documents.refers_to(sha256)

        referenced = await asyncio.gather(*(is_referenced(record["_id"]) for record in records))
        return [record for record, used in zip(records, referenced, strict=True) if not used]


def _hash_of(key: str) -> str:
    return key.rpartition("/")[2]


def _count_deleted(report: Report, records: Sequence[BlobRecord]) -> None:
    report.deleted += len(records)
    report.deleted_bytes += sum(record["size_bytes"] for record in records)
