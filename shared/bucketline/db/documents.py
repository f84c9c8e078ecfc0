"""Documents: what extractors made of objects. Ids are derived, so that making one again replaces it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import NotRequired, TypedDict

from pymongo import DeleteMany, InsertOne, ReplaceOne

from bucketline.clock import wire_time
from bucketline.db.mongo import Index
from bucketline.db.repository import Repository


class DocumentDocument(TypedDict):
    """One document. ``fields`` stand at its root on the wire; ``internal`` is its ``_internal``.

    ``ordinal`` is its place among the object's documents in the collection, from 0: the order of the text or the table
    that they are from. ``complete`` is on the first of them, which is written last: how many were written.
    ``run`` is the item's, ``lease`` the number of the lease of its unit under which it was made
    (:attr:`bucketline.db.work_units.UnitAttempts.leases`); documents of earlier releases have none.
    """

    _id: str
    namespace_id: str
    collection_id: str
    object_id: str
    bucket_id: str
    ordinal: int
    run: int
    lease: NotRequired[int]
    revision: int
    source_document_id: NotRequired[str | None]
    fields: dict[str, object]
    blobs: list[dict[str, object]]
    internal: dict[str, object]
    created_at: datetime
    updated_at: datetime
    complete: NotRequired[int]


INDEXES = (
    Index("list_order", [("collection_id", 1), ("created_at", 1), ("object_id", 1), ("ordinal", 1), ("_id", 1)]),
    Index("object", [("object_id", 1), ("collection_id", 1), ("run", 1), ("ordinal", 1)]),
    Index("by_namespace", [("namespace_id", 1)]),
    Index("by_content", [("blobs.checksum", 1)], where={"blobs.checksum": {"$exists": True}}),
)


class Documents(Repository[DocumentDocument]):
    """The repository of documents."""

    name = "documents"

    async def save(self, documents: Sequence[DocumentDocument], *, fresh: bool = False) -> None:
        """Writes all in one round trip; one with a known id replaces the older, and never one of a later run or lease.

        What a later run made stays: batches that work on an object at the same time may end in any order, and the
        later one removes what is left of earlier runs. ``fresh`` says that most of them are not there yet: inserting is
        quicker, and what turns out to be there is replaced in a second round trip.
        """
        writes = [InsertOne(document) if fresh else _replacing(document) for document in documents]
        refused = (await self.collection.bulk(writes)).refused
        # Refused is what was there, what was made at the same moment, and what is older than what it found.
        await self.collection.bulk([_replacing(documents[place]) for place in refused])

    async def change(self, seen: DocumentDocument, fields: dict[str, object], at: datetime) -> DocumentDocument | None:
        """Replaces the fields of a document if it is still as it was ``seen``; the document afterwards, else None.

        This is the only write that does not come from a processor. Everything but the fields stays, so that lineage is
        kept and :meth:`made` still counts the document. Processing replaces the fields when it makes the document
        again.
        """
        unchanged = {name: seen[name] for name in ("_id", "run", "updated_at")}
        changes = {"fields": fields, "updated_at": at, "internal.updated_at": wire_time(at)}
        return await self.collection.find_and_update(unchanged, {"$set": changes})

    async def delete_superseded(self, made: Sequence[tuple[str, str, int, int]]) -> int:
        """Removes what was made earlier and not again: (object, collection, run, lease).

        That is what earlier runs made, and what the same run made under an earlier lease.
        """
        writes = []
        for object_id, collection_id, run, lease in made:
            where = {"object_id": object_id, "collection_id": collection_id}
            writes.append(DeleteMany({**where, "run": {"$lt": run}}))
            if lease > 1:
                writes.append(DeleteMany({**where, "run": run, "lease": {"$not": {"$gte": lease}}}))
        return (await self.collection.bulk(writes)).deleted

    async def delete_of_lease(self, object_id: str, run: int, lease: int) -> None:
        """Removes what was made of the object in this run under this lease, in every collection."""
        await self.collection.delete_many({"object_id": object_id, "run": run, "lease": lease})

    async def delete_of_sources(self, places: Sequence[tuple[str, str]]) -> None:
        """Removes all that there is of objects in collections: (object, collection)."""
        wheres = [{"object_id": object_id, "collection_id": collection_id} for object_id, collection_id in places]
        await self.collection.bulk([DeleteMany(where) for where in wheres])

    async def count_complete(self, object_id: str, collection_ids: Sequence[str], revision: int) -> dict[str, int]:
        """How many documents these collections have of this revision of the object.

        Only of those where all were written and all are still there: one that was deleted is to be made again. Two
        round trips, whatever the number of collections; the index alone counts.
        """
        mine = {"object_id": object_id, "collection_id": {"$in": list(collection_ids)}}
        firsts = await self.collection.find(
            {**mine, "revision": revision, "complete": {"$exists": True}},
            limit=2 * max(1, len(collection_ids)),
            fields=["collection_id", "complete"],
        )
        if not firsts:
            return {}
        counted = await self.collection.aggregate(
            [{"$match": mine}, {"$group": {"_id": "$collection_id", "count": {"$sum": 1}}}],
            limit=len(collection_ids),
        )
        there = {str(row["_id"]): int(row["count"]) for row in counted}
        written = {first["collection_id"]: first.get("complete", 0) for first in firsts}
        return {key: count for key, count in written.items() if count == there.get(key)}

    async def delete_of_objects(self, object_ids: Sequence[str]) -> None:
        """Delete all documents of the objects."""
        await self.collection.delete_many({"object_id": {"$in": list(object_ids)}})

    async def delete_from(self, collection_id: str, document_id: str) -> bool:
        """Delete a document of the collection; return whether it existed."""
        return await self.collection.delete_one({"_id": document_id, "collection_id": collection_id})

    async def delete_some(self, owner: Mapping[str, str], *, limit: int) -> int:
        """Delete up to ``limit`` documents of a collection or namespace; return how many, 0 when none remain."""
        page = await self.collection.find(owner, limit=limit, fields=["_id"])
        return await self.delete_by_ids([document["_id"] for document in page]) if page else 0

    def stream_revision(self, object_id: str, collection_id: str, revision: int) -> AsyncIterator[DocumentDocument]:
        """Return the documents of one revision of an object in a collection, in order."""
        where = {"object_id": object_id, "collection_id": collection_id, "revision": revision}
        return self.collection.stream(where, sort=[("run", 1), ("ordinal", 1)])

    async def counts(self, object_ids: Sequence[str]) -> dict[str, dict[int, int]]:
        """How many documents each object has of each run, in one round trip; the index alone answers."""
        rows = await self.collection.aggregate(
            [
                {"$match": {"object_id": {"$in": list(object_ids)}}},
                {"$group": {"_id": {"object_id": "$object_id", "run": "$run"}, "count": {"$sum": 1}}},
                {"$group": {"_id": "$_id.object_id", "runs": {"$push": {"run": "$_id.run", "count": "$count"}}}},
            ],
            limit=max(1, len(object_ids)),
        )
        found = {str(row["_id"]): {int(of["run"]): int(of["count"]) for of in row["runs"]} for row in rows}
        return {object_id: found.get(object_id, {}) for object_id in object_ids}

    async def count_of_object(self, object_id: str) -> int:
        return await self.collection.count({"object_id": object_id})

    async def refers_to(self, sha256: str) -> bool:
        """Return whether a document refers to the content with this hash (hex)."""
        return await self.collection.find_one({"blobs.checksum": f"sha256:{sha256}"}, fields=["_id"]) is not None

    async def count_references(self, sha256: str) -> int:
        """Return how many documents refer to the content with this hash (hex)."""
        return await self.collection.count({"blobs.checksum": f"sha256:{sha256}"})


def _replacing(document: DocumentDocument) -> ReplaceOne[DocumentDocument]:
    """Refused, as a second one with its id, when the one that is there is of a later run or lease: a processor that
    lost its unit without knowing must not put back what another will then take for its own leavings."""
    run, lease = document["run"], document.get("lease", 0)
    later = [{"run": {"$gt": run}}, {"run": run, "lease": {"$gt": lease}}]
    return ReplaceOne({"_id": document["_id"], "$nor": later}, document, upsert=True)
