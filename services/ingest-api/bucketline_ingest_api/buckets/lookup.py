"""Buckets by id or name, within one namespace."""

from bucketline.db.buckets import BucketDocument
from bucketline.errors import NotFound
from bucketline_ingest_api.container import Container


async def any_bucket(deps: Container, namespace_id: str, identifier: str) -> BucketDocument:
    """The bucket as it is now, also while it is being deleted."""
    bucket = await deps.buckets.resolve(namespace_id, identifier)
    if bucket is None:
        raise NotFound.of("bucket", identifier)
    return bucket


async def live_bucket(deps: Container, namespace_id: str, identifier: str) -> BucketDocument:
    """The bucket as it is now, unless it is being deleted."""
    bucket = await any_bucket(deps, namespace_id, identifier)
    if bucket.get("deleting"):
        raise NotFound.of("bucket", identifier)
    return bucket
