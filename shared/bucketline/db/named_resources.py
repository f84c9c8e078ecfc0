"""What namespaces, buckets and collections have in common: an id and a name, and a task that deletes them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

from bucketline.db.mongo import Collection

D = TypeVar("D", bound=Mapping[str, Any])


async def resolve(collection: Collection[D], own: Mapping[str, object], identifier: str) -> D | None:
    """By id or by name, only among ``own``; an id wins over an equal name."""
    found = await collection.find({"$or": [{**own, "_id": identifier}, {**own, "name": identifier}]}, limit=2)
    return next((row for row in found if row["_id"] == identifier), found[0] if found else None)


async def mark_deleting(
    collection: Collection[Any], identifier: str, task_id: str, at: datetime, **also: object
) -> bool:
    """Hands it to the task that deletes it; False when another task has it, or it is gone.

    ``deleting_since`` is when that was done first. ``also`` sets further fields.
    """
    since = {"$ifNull": ["$deleting_since", at]}
    return await collection.update_one(
        {"_id": identifier, "$or": [{"deleting": {"$ne": True}}, {"delete_task": task_id}]},
        [{"$set": {"deleting": True, "delete_task": task_id, "deleting_since": since, **also}}],
    )
