"""Base classes of repositories: access by id, and queries whose conditions come from a client's filters."""

from collections.abc import Collection as Group
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Generic, TypeVar

from bucketline.db.mongo import Collection, Database, Filter, Sort

D = TypeVar("D", bound=Mapping[str, Any])


class Repository(Generic[D]):
    """The documents of one collection. Services use its methods and never the collection itself."""

    name: ClassVar[str]

    def __init__(self, database: Database) -> None:
        self.collection: Collection[D] = database.collection(self.name)

    async def get_by_id(self, identifier: str, *, fields: Sequence[str] | None = None) -> D | None:
        """Return the document, or None."""
        return await self.collection.find_one({"_id": identifier}, fields=fields)

    async def get_many(
        self, identifiers: Group[str], *, fields: Sequence[str] | None = None, without: Sequence[str] = ()
    ) -> dict[str, D]:
        """Return the existing documents by id, in one round trip."""
        found = await self.collection.find(
            {"_id": {"$in": list(identifiers)}}, limit=len(identifiers), fields=fields, without=without
        )
        return {document["_id"]: document for document in found}

    async def create(self, document: D) -> None:
        """Insert the document. Raise ``DuplicateKey`` if a unique index refuses it."""
        await self.collection.insert(document)

    async def delete_by_id(self, identifier: str) -> bool:
        """Delete the document; return whether it existed."""
        return await self.collection.delete_one({"_id": identifier})

    async def delete_by_ids(self, identifiers: Group[str]) -> int:
        """Delete the documents; return how many existed."""
        return await self.collection.delete_many({"_id": {"$in": list(identifiers)}})

    async def search(
        self,
        condition: Filter,
        *,
        limit: int,
        sort: Sort | None = None,
        skip: int = 0,
        fields: Sequence[str] | None = None,
        without: Sequence[str] = (),
        most_bytes: int | None = None,
        computed: Mapping[str, object] | None = None,
    ) -> list[D]:
        """Return the documents that a condition compiled from a client's filters selects; see ``Collection.find``."""
        return await self.collection.find(
            condition,
            limit=limit,
            sort=sort,
            skip=skip,
            fields=fields,
            without=without,
            most_bytes=most_bytes,
            computed=computed,
        )

    async def count_matching(
        self, condition: Filter, *, limit: int | None = None, computed: Mapping[str, object] | None = None
    ) -> int:
        """Return how many documents such a condition selects, at most ``limit``."""
        return await self.collection.count(condition, limit=limit, computed=computed)

    async def aggregate(self, pipeline: Sequence[Mapping[str, object]], *, limit: int) -> list[Mapping[str, Any]]:
        """Return the rows of a pipeline compiled from a client's request."""
        return await self.collection.aggregate(pipeline, limit=limit)


class NamedRepository(Repository[D]):
    """Documents that have a name within an ``owner`` field and are deleted by a task."""

    owner: ClassVar[str] = "namespace_id"

    async def resolve(self, owner_id: str, identifier: str) -> D | None:
        """Return the document with this id or name among those of the owner; an id wins over an equal name."""
        own = {self.owner: owner_id}
        found = await self.collection.find({"$or": [{**own, "_id": identifier}, {**own, "name": identifier}]}, limit=2)
        return next((row for row in found if row["_id"] == identifier), found[0] if found else None)

    async def change(self, identifier: str, changes: Mapping[str, object], *, seen: datetime | None = None) -> D | None:
        """Set fields and return the changed document; None if it is gone or being deleted.

        With ``seen`` only if ``updated_at`` is still that, for a change that depends on what was read. Raise
        ``DuplicateKey`` when a new name is taken.
        """
        where: dict[str, object] = {"_id": identifier, "deleting": {"$ne": True}}
        if seen is not None:
            where["updated_at"] = seen
        return await self.collection.find_and_update(where, {"$set": changes})

    async def mark_deleting(self, identifier: str, task_id: str, at: datetime) -> bool:
        """Assign the document to the task that deletes it; return False if another task has it, or it is gone.

        ``deleting_since`` keeps the time of the first call.
        """
        return await self._mark_deleting(identifier, task_id, at, {})

    async def _mark_deleting(self, identifier: str, task_id: str, at: datetime, fields: Mapping[str, object]) -> bool:
        since = {"$ifNull": ["$deleting_since", at]}
        return await self.collection.update_one(
            {"_id": identifier, "$or": [{"deleting": {"$ne": True}}, {"delete_task": task_id}]},
            [{"$set": {"deleting": True, "delete_task": task_id, "deleting_since": since, **fields}}],
        )
