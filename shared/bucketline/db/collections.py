"""Collections: which extractor turns the objects of which buckets (or documents of collections) into documents."""

from collections.abc import Sequence
from datetime import datetime
from typing import NotRequired, TypedDict

from bucketline.db.mongo import Index
from bucketline.db.repository import NamedRepository
from bucketline.domain.collection_graph import CollectionSource, walk_tiers


class FieldPassthrough(TypedDict):
    """A field of the source that is copied to the documents."""

    source_path: str
    target_path: str | None
    default: object
    required: bool


def target_of(rule: FieldPassthrough) -> str:
    """Return the path of the field in the document."""
    return rule["target_path"] or rule["source_path"].rpartition(".")[2]


class ExtractorConfig(TypedDict):
    """The extractor and its parameters. ``id`` is ``name_version``."""

    id: str
    name: str
    version: str
    input_mappings: dict[str, str]
    field_passthrough: list[FieldPassthrough]
    include_all_source_fields: bool
    parameters: dict[str, object]


class CollectionDocument(TypedDict):
    """A collection. Names are unique in a namespace."""

    _id: str
    namespace_id: str
    name: str
    description: str | None
    source: CollectionSource
    extractor: ExtractorConfig
    output_schema: dict[str, object]
    enabled: bool
    metadata: dict[str, object]
    created_at: datetime
    updated_at: datetime
    input_schema: NotRequired[dict[str, object]]
    settings: NotRequired[dict[str, object]]
    deleting: NotRequired[bool]
    deleting_since: NotRequired[datetime]
    delete_task: NotRequired[str]


COPIES_ALL = "passthrough_extractor"
"""Its one task is to copy fields: without a rule that says which, it copies all of them."""


def includes_all(config: ExtractorConfig) -> bool:
    """Whether documents get every field of their source."""
    copies = config["name"] == COPIES_ALL and not config["field_passthrough"]
    return config["include_all_source_fields"] or copies


INDEXES = (
    Index("name", [("namespace_id", 1), ("name", 1)], unique=True),
    Index("listing", [("namespace_id", 1), ("created_at", -1), ("_id", -1)]),
    Index("by_bucket", [("source.bucket_ids", 1)]),
    Index("by_collection", [("source.collection_ids", 1)]),
)

MAX_COLLECTIONS_PER_SOURCE = 100
"""Maximum number of collections that read one bucket or collection; further ones are refused when they are created."""


class Collections(NamedRepository[CollectionDocument]):
    """The repository of collections."""

    name = "collections"

    async def mark_deleting(self, identifier: str, task_id: str, at: datetime) -> bool:
        """Assign the collection to the task that deletes it and free its name: clients no longer see the collection."""
        return await self._mark_deleting(identifier, task_id, at, {"name": "$_id"})

    async def readers(self, collection_id: str, *, limit: int) -> list[CollectionDocument]:
        """Return live collections that read this one, enabled or not: only their ids and names."""
        where = {"source.collection_ids": collection_id, "deleting": {"$ne": True}}
        return await self.collection.find(where, limit=limit, fields=["name"])

    async def delete_of_namespace(self, namespace_id: str) -> None:
        """Delete all collections of the namespace."""
        await self.collection.delete_many({"namespace_id": namespace_id})

    async def live_ids(self, collection_ids: Sequence[str]) -> set[str]:
        """Return which of these collections exist and are not being deleted."""
        rows = await self.collection.find(
            {"_id": {"$in": list(collection_ids)}, "deleting": {"$ne": True}}, limit=len(collection_ids), fields=["_id"]
        )
        return {row["_id"] for row in rows}

    async def reading_bucket(self, bucket_id: str) -> list[CollectionDocument]:
        """Return the enabled collections that read a bucket directly, oldest first."""
        return await self._reading({"source.bucket_ids": bucket_id}, 1)

    async def read_bucket(self, bucket_id: str) -> bool:
        """Return whether an enabled collection reads the bucket directly."""
        where = {"source.bucket_ids": bucket_id, "enabled": True, "deleting": {"$ne": True}}
        return await self.collection.find_one(where, fields=["_id"]) is not None

    async def reading_collections(self, collection_ids: Sequence[str]) -> list[CollectionDocument]:
        """Return the enabled collections that read any of these collections, oldest first."""
        return await self._reading({"source.collection_ids": {"$in": list(collection_ids)}}, len(collection_ids))

    async def tiers_of_bucket(self, bucket_id: str) -> list[list[CollectionDocument]]:
        """Return the enabled collections that objects of the bucket reach, in tiers."""
        return await self.downstream(await self.reading_bucket(bucket_id))

    async def downstream(self, collections: Sequence[CollectionDocument]) -> list[list[CollectionDocument]]:
        """Return these collections and, in further tiers, the enabled ones that read them."""
        return await walk_tiers(collections, lambda tier: self.reading_collections([row["_id"] for row in tier]))

    async def upstream(self, collections: Sequence[CollectionDocument]) -> list[list[CollectionDocument]]:
        """Return these collections and, in further tiers, those that they read."""

        async def read_sources(tier: list[CollectionDocument]) -> list[CollectionDocument]:
            ids = sorted({source for row in tier for source in row["source"]["collection_ids"]})
            return await self.collection.find({"_id": {"$in": ids}}, limit=len(ids)) if ids else []

        return await walk_tiers(collections, read_sources)

    async def read_by_more(self, source: CollectionSource, than: int) -> list[str]:
        """Return the parts of the source that more than ``than`` live collections read, enabled or not."""
        field = "bucket_ids" if source["type"] == "bucket" else "collection_ids"
        ids = source["bucket_ids"] or source["collection_ids"]
        found = await self.collection.aggregate(
            [
                {"$match": {f"source.{field}": {"$in": ids}, "deleting": {"$ne": True}}},
                {"$unwind": f"$source.{field}"},
                {"$match": {f"source.{field}": {"$in": ids}}},
                {"$group": {"_id": f"$source.{field}", "count": {"$sum": 1}}},
                {"$match": {"count": {"$gt": than}}},
            ],
            limit=len(ids),
        )
        return sorted(str(row["_id"]) for row in found)

    async def _reading(self, where: dict[str, object], sources: int) -> list[CollectionDocument]:
        return await self.collection.find(
            {**where, "enabled": True, "deleting": {"$ne": True}},
            limit=MAX_COLLECTIONS_PER_SOURCE * max(1, sources),
            sort=[("created_at", 1), ("_id", 1)],
        )
