"""Cursors of jobs that go through all data in several runs, such as garbage collection."""

from dataclasses import dataclass
from datetime import datetime
from typing import NotRequired, TypedDict

from bucketline.db.mongo import Collection, Database


class JobCursorDocument(TypedDict):
    """A stored cursor; ``_id`` names the job."""

    _id: str
    listed: NotRequired[str]
    touched_at: NotRequired[datetime]
    sha256: NotRequired[str]
    offset: NotRequired[int]
    at: NotRequired[int]


@dataclass(frozen=True)
class GcCursor:
    """A position: after a key of the S3 listing, after a content record, or in a topic; the beginning if all are None.

    ``record`` is the time of the last touch and the hash. ``logged`` is the offset of the next record and the time (ms)
    of the previous one, which tells a topic from a later one of the same name.
    """

    listed: str | None = None
    record: tuple[datetime, str] | None = None
    logged: tuple[int, int] | None = None


BEGINNING = GcCursor()


class JobCursors:
    """The repository of job cursors. A lost cursor only costs time."""

    def __init__(self, database: Database) -> None:
        self.collection: Collection[JobCursorDocument] = database.collection("job_cursors")

    async def get(self, job: str) -> GcCursor:
        """Return where the last run stopped; the beginning if it was complete."""
        found = await self.collection.find_one({"_id": job})
        return BEGINNING if found is None else _to_cursor(found)

    async def find_by_prefix(self, prefix: str, *, limit: int) -> list[tuple[str, GcCursor]]:
        """Return the names and cursors of at most ``limit`` jobs whose name begins with ``prefix``."""
        named = {"_id": {"$gte": prefix, "$lt": f"{prefix}\uffff"}}
        return [(row["_id"], _to_cursor(row)) for row in await self.collection.find(named, limit=limit)]

    async def save(self, job: str, cursor: GcCursor) -> None:
        """Store the cursor of a job; the beginning is stored by deleting it."""
        if cursor == BEGINNING:
            await self.collection.delete_one({"_id": job})
            return
        fields: dict[str, object] = {"listed": cursor.listed}
        if cursor.record is not None:
            fields = dict(zip(("touched_at", "sha256"), cursor.record, strict=True))
        elif cursor.logged is not None:
            fields = dict(zip(("offset", "at"), cursor.logged, strict=True))
        await self.collection.update_one({"_id": job}, [{"$replaceWith": {"_id": job, **fields}}], upsert=True)


def _to_cursor(document: JobCursorDocument) -> GcCursor:
    if "touched_at" in document and "sha256" in document:
        return GcCursor(record=(document["touched_at"], document["sha256"]))
    if "offset" in document and "at" in document:
        return GcCursor(logged=(document["offset"], document["at"]))
    return GcCursor(listed=document.get("listed"))
