"""Documents that extractors produced from objects. Ids are derived, so a repeated extraction replaces them."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import NotRequired, TypedDict

from pymongo import DeleteMany, InsertOne, ReplaceOne

from bucketline.clock import wire_time
from bucketline.db.mongo import Index
from bucketline.db.repository import Repository


class DocumentDocument(TypedDict):
    """One document. ``fields`` are at its root in responses; ``internal`` is its ``_internal``.

    ``ordinal`` is its position among the documents of the object in the collection, from 0, in the order of the source.
    ``complete`` is on the first document, which is written last: how many were written. ``run`` is the run of the item,
    ``lease`` the number of the lease of its unit (:attr:`bucketline.db.work_units.UnitAttempts.leases`); documents of
    the previous release have neither.
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
        """Store documents in one round trip; replace those with the same id unless they are of a later run or lease.

        Batches that work on an object at the same time may end in any order, and the later one deletes the documents of
        earlier runs. With ``fresh`` the documents are inserted, which is quicker when most of them do not exist; a
        second round trip replaces those that do.
        """
        writes = [InsertOne(document) if fresh else _replacing(document) for document in documents]
        refused = (await self.collection.bulk(writes)).refused
        # Refused: documents that exist, that were created at the same moment, or that are older than the stored ones.
        await self.collection.bulk([_replacing(documents[index]) for index in refused])

    async def change(self, seen: DocumentDocument, fields: dict[str, object], at: datetime) -> DocumentDocument | None:
        """Replace the fields of a document that is unchanged since it was ``seen``; return the new document, else None.

        This is the only write that does not come from a processor. The lineage stays, so :meth:`count_complete` still
        counts the document. Processing the object again overwrites the fields.
        """
        unchanged = {name: seen[name] for name in ("_id", "run", "updated_at")}
        changes = {"fields": fields, "updated_at": at, "internal.updated_at": wire_time(at)}
        return await self.collection.find_and_update(unchanged, {"$set": changes})

    async def delete_superseded(self, current: Sequence[tuple[str, str, int, int]]) -> int:
        """Delete documents of earlier runs, and of earlier leases of the same run; return how many.

        ``current`` lists (object, collection, run, lease).
        """
        writes = []
        for object_id, collection_id, run, lease in current:
            where = {"object_id": object_id, "collection_id": collection_id}
            writes.append(DeleteMany({**where, "run": {"$lt": run}}))
            if lease > 1:
                writes.append(DeleteMany({**where, "run": run, "lease": {"$not": {"$gte": lease}}}))
        return (await self.collection.bulk(writes)).deleted

    async def delete_of_lease(self, object_id: str, run: int, lease: int) -> None:
        """Delete the documents of the object from this run and lease, in every collection."""
        await self.collection.delete_many({"object_id": object_id, "run": run, "lease": lease})

    async def delete_of_sources(self, sources: Sequence[tuple[str, str]]) -> None:
        """Delete all documents of each (object, collection)."""
        wheres = [{"object_id": object_id, "collection_id": collection_id} for object_id, collection_id in sources]
        await self.collection.bulk([DeleteMany(where) for where in wheres])

    async def count_complete(self, object_id: str, collection_ids: Sequence[str], revision: int) -> dict[str, int]:
        """Return the number of documents of this revision in each collection that has all of them.

        Collections in which a document is missing are left out, because the object must be extracted again for them.
        Takes two round trips, whatever the number of collections; the index alone answers the count.
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
        """Return how many documents each object has of each run, in one round trip; the index alone answers."""
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
        """Return how many documents the object has."""
        return await self.collection.count({"object_id": object_id})

    async def refers_to(self, sha256: str) -> bool:
        """Return whether a document refers to the content with this hash (hex)."""
        return await self.collection.find_one({"blobs.checksum": f"sha256:{sha256}"}, fields=["_id"]) is not None

    async def count_references(self, sha256: str) -> int:
        """Return how many documents refer to the content with this hash (hex)."""
        return await self.collection.count({"blobs.checksum": f"sha256:{sha256}"})


def _replacing(document: DocumentDocument) -> ReplaceOne[DocumentDocument]:
    """Return the write that replaces the document, unless the stored one is of a later run or lease.

    Otherwise the upsert fails with a duplicate id: a processor that lost its unit without noticing must not overwrite
    the documents of its successor.
    """
    run, lease = document["run"], document.get("lease", 0)
    later = [{"run": {"$gt": run}}, {"run": run, "lease": {"$gt": lease}}]
    return ReplaceOne({"_id": document["_id"], "$nor": later}, document, upsert=True)
