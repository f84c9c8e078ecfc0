"""Batches without their bucket, as far as a caller may see them."""

from bucketline.db.batches import BatchDocument
from bucketline.errors import NotFound
from bucketline_ingest_api.auth import Principal, can_access
from bucketline_ingest_api.container import Container


async def find_batch(deps: Container, caller: Principal, batch_id: str, namespace: str | None) -> BatchDocument:
    """:class:`NotFound` for a batch of another organisation or namespace."""
    scope = await deps.auth.namespace(caller, namespace) if namespace else None
    batch = await deps.batches.get(batch_id)
    if batch is not None and (scope is None or batch["namespace_id"] == scope["_id"]):
        holder = scope or await deps.namespaces.collection.get(batch["namespace_id"])
        if holder is not None and can_access(caller, holder):
            return batch
    raise NotFound.of("batch", batch_id)
