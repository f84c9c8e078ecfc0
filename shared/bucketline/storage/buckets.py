"""Buckets: where objects are put, with their schema and the rule for their identity."""

from datetime import datetime
from typing import Literal, NotRequired, TypedDict

from bucketline.storage.mongo import Collection, Database, Index

Policy = Literal["insert", "update", "upsert"]


class UniqueKey(TypedDict):
    """``fields`` identify an object; ``default_policy`` applies where a request names none."""

    fields: list[str]
    default_policy: Policy | None


class BucketDocument(TypedDict):
    """A bucket. Names are unique in a namespace."""

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
    last_upload_at: NotRequired[datetime]


INDEXES = (
    Index("name", [("namespace_id", 1), ("name", 1)], unique=True),
    Index("listing", [("namespace_id", 1), ("created_at", -1), ("_id", -1)]),
)


class Buckets:
    """The repository of buckets."""

    def __init__(self, database: Database) -> None:
        self.collection: Collection[BucketDocument] = database.collection("buckets")

    async def resolve(self, namespace_id: str, identifier: str) -> BucketDocument | None:
        """By id or by name, only within the namespace; an id wins over an equal name."""
        where = {"namespace_id": namespace_id, "$or": [{"_id": identifier}, {"name": identifier}]}
        found = await self.collection.find(where, limit=2)
        return next((b for b in found if b["_id"] == identifier), found[0] if found else None)
