"""All indexes of all collections. Services create them at startup."""

from collections.abc import Mapping, Sequence

from bucketline.db import (
    api_keys,
    batch_dependencies,
    batches,
    batching_windows,
    blobs,
    buckets,
    collections,
    documents,
    event_feed,
    namespaces,
    object_deletions,
    objects,
    rate_limits,
    tasks,
    uploads,
    webhooks,
    work_units,
)
from bucketline.db.mongo import Database, Index

INDEXES: Mapping[str, Sequence[Index]] = {
    "namespaces": namespaces.INDEXES,
    "buckets": buckets.INDEXES,
    "collections": collections.INDEXES,
    "objects": objects.INDEXES,
    objects.SOFT_DELETED: objects.SOFT_DELETED_INDEXES,
    "object_deletions": object_deletions.INDEXES,
    "blobs": blobs.INDEXES,
    "batches": batches.INDEXES,
    "work_units": work_units.INDEXES,
    "batch_dependencies": batch_dependencies.INDEXES,
    "batching_windows": batching_windows.INDEXES,
    "documents": documents.INDEXES,
    "keys": api_keys.INDEXES,
    "tasks": tasks.INDEXES,
    "uploads": uploads.INDEXES,
    "rate_limits": rate_limits.INDEXES,
    "event_feed": event_feed.INDEXES,
    "webhooks": webhooks.INDEXES,
    "webhook_deliveries": webhooks.DELIVERY_INDEXES,
}


async def ensure_indexes(database: Database) -> None:
    """Create missing indexes. Idempotent, and safe to call from several processes at once."""
    for name, indexes in INDEXES.items():
        await database.collection(name).ensure(indexes)


async def missing_indexes(database: Database) -> dict[str, list[str]]:
    """Return the names of missing indexes by collection."""
    found = {}
    for name, indexes in INDEXES.items():
        present = await database.collection(name).index_names()
        if absent := [index.name for index in indexes if index.name not in present]:
            found[name] = absent
    return found
