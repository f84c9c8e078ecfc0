"""Collections by id or name, within one namespace."""

from bucketline.db.collections import CollectionDocument
from bucketline.errors import NotFound
from bucketline_ingest_api.container import Container


async def live_collection(deps: Container, namespace_id: str, identifier: str) -> CollectionDocument:
    """The collection as it is now, unless it is being deleted."""
    collection = await deps.collections.resolve(namespace_id, identifier)
    if collection is None or collection.get("deleting"):
        raise NotFound.of("collection", identifier)
    return collection


async def document_count(deps: Container, collection_id: str) -> int:
    """How many documents the collection has; exact up to 20,000, above that at most ten seconds old."""
    where = {"collection_id": collection_id}
    return await deps.counter.count(deps.documents.collection, where, key=f"documents {collection_id}")
