"""Places: how far work got that goes through everything, one run after the other, each for a while."""

from dataclasses import dataclass
from datetime import datetime
from typing import NotRequired, TypedDict

from bucketline.db.mongo import Collection, Database


class JobCursorDocument(TypedDict):
    """``_id`` names the work."""

    _id: str
    listed: NotRequired[str]
    touched_at: NotRequired[datetime]
    sha256: NotRequired[str]
    offset: NotRequired[int]
    at: NotRequired[int]


@dataclass(frozen=True)
class GcCursor:
    """Past a key of the bucket's listing, past a record by its last touch, or past a record of a log; none of these is
    the beginning. In a log: the offset of the next record, and the time (ms) of the one before it, by which a log is
    told from another of the same name."""

    listed: str | None = None
    record: tuple[datetime, str] | None = None
    logged: tuple[int, int] | None = None


BEGINNING = GcCursor()


class JobCursors:
    """The repository of places. One that is lost costs time and nothing else."""

    def __init__(self, database: Database) -> None:
        self.collection: Collection[JobCursorDocument] = database.collection("job_cursors")

    async def get(self, work: str) -> GcCursor:
        """Where the last run stopped; the beginning if it came to its end."""
        found = await self.collection.get(work)
        return BEGINNING if found is None else _to_cursor(found)

    async def find_by_prefix(self, prefix: str, *, limit: int) -> list[tuple[str, GcCursor]]:
        """Return the names and cursors of at most ``limit`` jobs whose name begins with ``prefix``."""
        named = {"_id": {"$gte": prefix, "$lt": f"{prefix}\uffff"}}
        return [(row["_id"], _to_cursor(row)) for row in await self.collection.find(named, limit=limit)]

    async def save(self, work: str, place: GcCursor) -> None:
        """The beginning is kept as nothing at all."""
        if place == BEGINNING:
            await self.collection.delete_one({"_id": work})
            return
        fields: dict[str, object] = {"listed": place.listed}
        if place.record is not None:
            fields = dict(zip(("touched_at", "sha256"), place.record, strict=True))
        elif place.logged is not None:
            fields = dict(zip(("offset", "at"), place.logged, strict=True))
        await self.collection.update_one({"_id": work}, [{"$replaceWith": {"_id": work, **fields}}], upsert=True)


def _to_cursor(document: JobCursorDocument) -> GcCursor:
    if "touched_at" in document and "sha256" in document:
        return GcCursor(record=(document["touched_at"], document["sha256"]))
    if "offset" in document and "at" in document:
        return GcCursor(logged=(document["offset"], document["at"]))
    return GcCursor(listed=document.get("listed"))
