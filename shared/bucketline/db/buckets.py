"""Buckets: containers of objects, with a schema and a rule for their identity."""

from datetime import datetime
from typing import Literal, NotRequired, TypedDict

from bucketline.db.mongo import Index
from bucketline.db.repository import NamedRepository

Policy = Literal["insert", "update", "upsert"]


class UniqueKey(TypedDict):
    """``fields`` identify an object; ``default_policy`` applies to requests without a policy."""

    fields: list[str]
    default_policy: Policy | None


class Batching(TypedDict):
    """When drafts of the bucket are submitted: after this many objects, bytes or seconds, whichever is first."""

    max_objects: int
    max_bytes: int
    max_wait_seconds: float


class BucketStats(TypedDict):
    """Statistics of a bucket, counted at ``at`` within ``seconds``. Sizes are the bytes of the blobs.

    ``at`` is None if only the number of objects is known so far.
    """

    objects: int
    failed_objects: int
    total_size: int
    max_size: int
    min_size: int
    batches: dict[str, int]
    last_object_at: datetime | None
    at: datetime | None
    seconds: float


class BucketDocument(TypedDict):
    """A bucket. Names are unique in a namespace.

    ``settings["batching"]`` is a :class:`Batching` if the bucket has its own policy. ``stats`` is a cache for buckets
    that are too large to be counted on every read; ``stats_taken_at`` prevents two replicas from counting at once.
    """

    _id: str
    namespace_id: str
    name: str
    description: str | None
    schema: dict[str, object]
    unique_key: UniqueKey | None
    metadata: dict[str, object]
    storage_class: str
    settings: dict[str, object]
    created_at: datetime
    updated_at: datetime
    is_locked: NotRequired[bool]
    deleting: NotRequired[bool]
    deleting_since: NotRequired[datetime]
    delete_task: NotRequired[str]
    stats: NotRequired[BucketStats]
    stats_taken_at: NotRequired[datetime]


INDEXES = (
    Index("name", [("namespace_id", 1), ("name", 1)], unique=True),
    Index("listing", [("namespace_id", 1), ("created_at", -1), ("_id", -1)]),
    Index(
        "batching",
        [("settings.batching.max_objects", 1), ("_id", 1)],
        where={"settings.batching.max_objects": {"$exists": True}},
    ),
)


class Buckets(NamedRepository[BucketDocument]):
    """The repository of buckets."""

    name = "buckets"

    async def next_of_namespace(self, namespace_id: str, *, after: str) -> BucketDocument | None:
        """Return the bucket of the namespace with the next greater id."""
        return await self.collection.find_one({"namespace_id": namespace_id, "_id": {"$gt": after}}, sort=[("_id", 1)])

    async def ids_after(self, bucket_id: str, *, with_batching: bool, limit: int) -> list[str]:
        """Return the ids of buckets with a greater id, in order; ``with_batching``: only those with a policy."""
        where: dict[str, object] = {"_id": {"$gt": bucket_id}}
        if with_batching:
            where["settings.batching.max_objects"] = {"$exists": True}
        rows = await self.collection.find(where, limit=limit, sort=[("_id", 1)], fields=["_id"])
        return [row["_id"] for row in rows]

    async def take_stats(self, bucket_id: str, *, now: datetime, before: datetime) -> bool:
        """Claim the counting of the bucket; return False if it was claimed since ``before``."""
        idle: dict[str, object] = {"$or": [{"stats_taken_at": None}, {"stats_taken_at": {"$lt": before}}]}
        return await self.collection.update_one({"_id": bucket_id, **idle}, {"$set": {"stats_taken_at": now}})

    async def put_stats(self, bucket_id: str, stats: BucketStats) -> None:
        """Store the statistics of the bucket."""
        await self.collection.update_one({"_id": bucket_id}, {"$set": {"stats": stats}})
