"""The objects for which submitted batches wait, because they are not mirrored yet."""

from collections.abc import Sequence
from datetime import datetime
from typing import TypedDict

from pymongo import UpdateOne

from bucketline.db.mongo import Index
from bucketline.db.repository import Repository


class BatchDependencyDocument(TypedDict):
    """An object of a submitted batch that is not mirrored yet; ``_id`` is ``<batch>:<object>``."""

    _id: str
    batch_id: str
    object_id: str
    since: datetime


INDEXES = (
    Index("by_object", [("object_id", 1)]),
    Index("by_batch", [("batch_id", 1), ("_id", 1)]),
    Index("since", [("since", 1)]),
)


class BatchDependencies(Repository[BatchDependencyDocument]):
    """Objects that submitted batches wait for."""

    name = "batch_dependencies"

    async def add(self, batch_id: str, object_ids: Sequence[str], since: datetime) -> None:
        """Store that the batch waits for these objects; existing dependencies keep their time."""
        await self.collection.bulk(
            [
                UpdateOne(
                    {"_id": f"{batch_id}:{object_id}"},
                    {"$setOnInsert": {"batch_id": batch_id, "object_id": object_id, "since": since}},
                    upsert=True,
                )
                for object_id in object_ids
            ]
        )

    async def find_by_objects(self, object_ids: Sequence[str], *, limit: int) -> list[BatchDependencyDocument]:
        """Return the dependencies on any of these objects."""
        return await self.collection.find({"object_id": {"$in": list(object_ids)}}, limit=limit)

    async def find_overdue(self, before: datetime, *, limit: int) -> list[BatchDependencyDocument]:
        """Return dependencies that were stored or touched before ``before``, oldest first."""
        return await self.collection.find({"since": {"$lt": before}}, limit=limit, sort=[("since", 1)])

    async def touch(self, identifiers: Sequence[str], at: datetime) -> None:
        """Move dependencies to the end of the reconciler's order."""
        await self.collection.update_many({"_id": {"$in": list(identifiers)}}, {"$set": {"since": at}})

    async def delete_of_batches(self, batch_ids: Sequence[str]) -> None:
        """Delete all dependencies of the batches."""
        await self.collection.delete_many({"batch_id": {"$in": list(batch_ids)}})

    async def exist_for(self, batch_id: str) -> bool:
        """Return whether the batch waits for an object."""
        return await self.collection.count({"batch_id": batch_id}, limit=1) > 0
