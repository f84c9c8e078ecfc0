"""Garbage collection: content that no object and no document refers to is removed after a grace period.

Safe while everything runs, from several places at once. It never guesses: references are looked up by index, not
counted along the way, so no lost decrement can hurt. How writers and this collector get along is told in
:mod:`bucketline.db.blobs`; here is the other half of it:

1. only records whose last touch is older than the grace are looked at;
2. what nobody refers to is marked *deleting*, by compare-and-set on that touch. From here on nobody begins to refer;
3. references are looked up once more: one that was written between the first look and the mark is seen now;
4. the content is deleted, and then its record.

A collector that dies after 2 leaves a record that a later run takes up, or that a writer who needs the content makes
live again, once ``deleting_until`` has passed. A collector that was suspended for longer than :data:`MARK_GOOD_FOR`
notices, and leaves everything to a later run.

Content without a record, as a crash may leave it, gets one and is then as good as new: what nobody refers to goes a
whole grace after it was found, never in the run that found it. A run that seems to have been given the wrong database
or the wrong bucket does nothing at all (:mod:`bucketline.admin.deployment_id`).

A run may be told when it has done enough. It then says where it stopped, and a later one goes on from there: however
much there is, runs of any length get through all of it.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Collection as Group
from dataclasses import dataclass
from datetime import datetime, timedelta

from pymongo import UpdateOne

from bucketline.admin.deployment_id import CONTENT, DeploymentOwnership, ForeignBucketError
from bucketline.blobs.store import BlobStore, ObjectSummary
from bucketline.clock import Clock
from bucketline.db.blobs import MIN_GRACE, BlobRecord, Blobs, blob_key
from bucketline.db.documents import Documents
from bucketline.db.job_cursors import BEGINNING, GcCursor
from bucketline.db.mongo import Database
from bucketline.db.objects import Objects
from bucketline.errors import DependencyUnavailable
from bucketline.ids import Ids
from bucketline.observability.logging import get_logger

log = get_logger(__name__)

PAGE = 200
LOOKUPS = 16
MARKED_FOR = timedelta(seconds=120)
MARK_GOOD_FOR = 30.0
"""Seconds after the mark within which the deletion must begin; it is given as long again to end."""


@dataclass(frozen=True, slots=True)
class References:
    """How many objects and documents refer to some content."""

    objects: int
    documents: int


@dataclass
class Report:
    """What a run saw and did so far; bytes of content. A dry run tells what it would have removed and adopted.

    ``listed`` counts what was found in the bucket, ``examined`` the records that were old enough to be looked at.
    ``adopted`` had no record. ``place`` is where the next run should begin; the beginning, once it went through
    everything. ``doubt`` is why a run that is not dry would have refused to.
    """

    listed: int = 0
    examined: int = 0
    referenced: int = 0
    removed: int = 0
    removed_bytes: int = 0
    adopted: int = 0
    adopted_bytes: int = 0
    spared: int = 0
    place: GcCursor = BEGINNING
    doubt: str | None = None


ProgressCallback = Callable[[Report], bool]
"""Hears of each page that was dealt with; says whether to go on."""


class GarbageCollector:
    """One run, or many. Raises ``DependencyUnavailable`` when a store is away; a later run goes on from there."""

    def __init__(self, database: Database, store: BlobStore, *, clock: Clock, ids: Ids, grace: timedelta) -> None:
        if grace < MIN_GRACE:
            raise ValueError(f"the grace period must be at least {MIN_GRACE}")
        self._blobs = Blobs(database)
        self._objects = Objects(database)
        self._documents = Documents(database)
        self._ownership = DeploymentOwnership(database, store, ids)
        self._store = store
        self._clock = clock
        self._ids = ids
        self._grace = grace
        self._lookups = asyncio.Semaphore(LOOKUPS)

    async def references(self, sha256: str) -> References:
        """Counted now, by index; a number to look at, not to decide by."""
        name = f"sha256:{sha256}"
        return References(
            objects=await self._objects.collection.count({"blobs.details.hash": name}),
            documents=await self._documents.collection.count({"blobs.checksum": name}),
        )

    async def run(
        self,
        *,
        dry_run: bool = False,
        orphans: bool = True,
        adopt_unknown: bool = False,
        begin: GcCursor = BEGINNING,
        told: ProgressCallback = lambda _: True,
    ) -> Report:
        """Goes through everything from ``begin`` to the end, or until ``told`` says that it is enough.

        ``orphans`` looks for content without a record in the bucket, too. Raises ``ForeignBucketError`` when
        database and bucket
        do not seem to belong together, unless ``adopt_unknown`` says that they do; a dry run goes on, and tells.
        """
        report = Report(doubt=None if adopt_unknown else await self._ownership.doubt(self._clock.now() - self._grace))
        if not dry_run:
            if report.doubt is not None:
                raise ForeignBucketError(report.doubt)
            await self._ownership.settle()
            await self._finish_others(report)
        if orphans and begin.record is None and not await self._adopt(begin.listed, report, told, dry_run):
            return report
        await self._collect(begin.record, report, told, dry_run)
        return report

    async def _collect(
        self, after: tuple[datetime, str] | None, report: Report, told: ProgressCallback, dry_run: bool
    ) -> None:
        before = self._clock.now() - self._grace
        while page := await self._blobs.collection.find(
            _old(before, after), limit=PAGE, sort=[("touched_at", 1), ("_id", 1)]
        ):
            await self._page(page, report, dry_run)
            after = page[-1]["touched_at"], page[-1]["_id"]
            if not told(report):
                report.place = GcCursor(record=after)
                return

    async def _page(self, page: Sequence[BlobRecord], report: Report, dry_run: bool) -> None:
        referenced = await self._referenced([record["_id"] for record in page])
        free = [record for record in page if record["_id"] not in referenced]
        report.examined += len(page)
        report.referenced += len(referenced)
        if dry_run:
            report.removed += len(free)
            report.removed_bytes += sum(record["size_bytes"] for record in free)
        elif free:
            await self._remove({r["_id"]: {"state": "live", "touched_at": r["touched_at"]} for r in free}, report)

    async def _finish_others(self, report: Report) -> None:
        """Takes up what an earlier run marked and did not get done with."""
        while left := await self._blobs.collection.find({"deleting_until": {"$lt": self._clock.now()}}, limit=PAGE):
            seen = {r["_id"]: {"state": "deleting", "deleting_until": r.get("deleting_until")} for r in left}
            await self._remove(seen, report)

    async def _remove(self, seen: Mapping[str, Mapping[str, object]], report: Report) -> None:
        """Marks, looks again, deletes. ``seen`` is what each record must still be like to be marked."""
        marked_at, token = time.monotonic(), self._ids.new("req")
        until = self._clock.now() + MARKED_FOR
        await self._blobs.collection.bulk(
            [
                UpdateOne(
                    {"_id": sha256, **state},
                    {"$set": {"state": "deleting", "deleting_until": until, "collector": token}},
                )
                for sha256, state in seen.items()
            ]
        )
        mine = {"state": "deleting", "collector": token}
        marked = await self._blobs.collection.find({"_id": {"$in": list(seen)}, **mine}, limit=len(seen))
        referenced = await self._referenced([record["_id"] for record in marked])
        if referenced:
            await self._blobs.collection.update_many(
                {"_id": {"$in": list(referenced)}, **mine},
                {"$set": {"state": "live"}, "$unset": {"deleting_until": "", "collector": ""}},
            )
        free = [record for record in marked if record["_id"] not in referenced]
        report.spared += len(seen) - len(free)
        if not free:
            return
        if time.monotonic() - marked_at > MARK_GOOD_FOR or self._clock.now() > until - MARKED_FOR / 2:
            log.warning("too slow to remove what was marked; a later run will", count=len(free))
            return
        try:
            async with asyncio.timeout(MARK_GOOD_FOR):
                await self._store.delete([blob_key(record["_id"]) for record in free])
        except TimeoutError:
            raise DependencyUnavailable("S3 did not delete in time") from None
        await self._blobs.collection.delete_many({"_id": {"$in": [record["_id"] for record in free]}, **mine})
        report.removed += len(free)
        report.removed_bytes += sum(record["size_bytes"] for record in free)

    async def _referenced(self, hashes: Sequence[str]) -> set[str]:
        """Those of the hashes that an object or a document refers to."""

        async def look(sha256: str) -> bool:
            name = f"sha256:{sha256}"
            async with self._lookups:
                return (
                    await self._objects.collection.find_one({"blobs.details.hash": name}, fields=["_id"]) is not None
                    or await self._documents.collection.find_one({"blobs.checksum": name}, fields=["_id"]) is not None
                )

        found = await asyncio.gather(*(look(sha256) for sha256 in hashes))
        return {sha256 for sha256, yes in zip(hashes, found, strict=True) if yes}

    async def _adopt(self, after: str | None, report: Report, told: ProgressCallback, dry_run: bool) -> bool:
        """Gives old content without a record one: a crash came between the two. The usual rules then apply to it.

        Whether the listing was gone through to its end.
        """
        now = self._clock.now()
        before = now - self._grace
        while listed := await self._store.list(CONTENT, limit=PAGE, after=after):
            after = listed[-1].key
            old = {row.key.rpartition("/")[2]: row for row in listed if row.last_modified < before}
            missing = [old[sha256] for sha256 in old.keys() - await self._recorded(old.keys())]
            if not dry_run:
                await self._blobs.collection.bulk([_adoption(row, now) for row in missing])
            report.listed += len(listed)
            report.adopted += len(missing)
            report.adopted_bytes += sum(row.size for row in missing)
            if not told(report):
                report.place = GcCursor(listed=after)
                return False
        return True

    async def _recorded(self, hashes: Group[str]) -> set[str]:
        rows = await self._blobs.collection.find({"_id": {"$in": list(hashes)}}, limit=PAGE, fields=["_id"])
        return {row["_id"] for row in rows}


def _old(before: datetime, after: tuple[datetime, str] | None) -> dict[str, object]:
    """Live records that nobody touched since ``before``, those past ``after`` only."""
    if after is None:
        return {"state": "live", "touched_at": {"$lt": before}}
    touched_at, sha256 = after
    return {
        "state": "live",
        "$or": [
            {"touched_at": {"$gt": touched_at, "$lt": before}},
            {"touched_at": touched_at, "_id": {"$gt": sha256}},
        ],
    }


def _adoption(row: ObjectSummary, now: datetime) -> UpdateOne:
    """As if it had been touched just now, so that whoever finds out that this is the wrong database has time to."""
    first = {
        "key": row.key,
        "size_bytes": row.size,
        "mime_type": "application/octet-stream",
        "created_at": row.last_modified,
        "touched_at": now,
        "state": "live",
    }
    return UpdateOne({"_id": row.key.rpartition("/")[2]}, {"$setOnInsert": first}, upsert=True)
