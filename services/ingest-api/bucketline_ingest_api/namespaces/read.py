"""Namespaces: one by id or name, a page of them, what is in them."""

import asyncio
from collections.abc import Sequence
from typing import Any

from bucketline.db.mongo import Collection
from bucketline.db.namespaces import NamespaceDocument, listing_filter
from bucketline.domain.paging import NAMESPACES
from bucketline.errors import NotFound
from bucketline_ingest_api.auth import Principal, can_access
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.pagination import ListSpec, Page, field_mapper, list_rows
from bucketline_ingest_api.schemas import ListBody, ListQuery

KIND = ListSpec(
    bounds=NAMESPACES,
    field_path=field_mapper(
        {
            "namespace_id": "_id",
            "namespace_name": "name",
            "description": "description",
            "mode": "mode",
            "created_at": "created_at",
            "updated_at": "updated_at",
        },
        under="unknown",
    ),
    searched=("_id", "name", "description"),
    exact=frozenset({"namespace_id"}),
)
MAX_CONCURRENCY = 4

Counts = dict[str, int]


async def any_namespace(deps: Container, caller: Principal, identifier: str) -> NamespaceDocument:
    """The namespace as it is now, also while it is being deleted. :class:`NotFound` for one the key may not see."""
    found = await deps.namespaces.resolve(caller.organization_id, identifier)
    if found is None or not can_access(caller, found):
        raise NotFound.of("namespace", identifier)
    return found


async def live_namespace(deps: Container, caller: Principal, identifier: str) -> NamespaceDocument:
    """The same, unless it is being deleted."""
    found = await any_namespace(deps, caller, identifier)
    if found.get("deleting"):
        raise NotFound.of("namespace", identifier)
    return found


async def list_namespaces(
    deps: Container, caller: Principal, asked: ListQuery, body: ListBody | None
) -> Page[NamespaceDocument]:
    """Namespaces that the key may see, newest first."""
    scope = listing_filter(caller.organization_id, caller.namespaces)
    return await list_rows(deps.namespaces.collection, scope, KIND, asked, body)


async def counts_of(deps: Container, namespaces: Sequence[NamespaceDocument]) -> list[Counts]:
    """What is in each; exact up to 20,000 of a kind, above that at most ten seconds old."""
    gate = asyncio.Semaphore(MAX_CONCURRENCY)

    async def one(namespace_id: str) -> Counts:
        async with gate:
            return await _counts(deps, namespace_id)

    return list(await asyncio.gather(*(one(namespace["_id"]) for namespace in namespaces)))


async def _counts(deps: Container, namespace_id: str) -> Counts:
    where = {"namespace_id": namespace_id}
    counted: dict[str, Collection[Any]] = {
        "bucket_count": deps.buckets.collection,
        "collection_count": deps.collections.collection,
        "object_count": deps.objects.collection,
        "document_count": deps.documents.collection,
    }
    counts = await asyncio.gather(
        *(deps.counter.count(rows, where, key=f"{kind} {namespace_id}") for kind, rows in counted.items())
    )
    return dict(zip(counted, counts, strict=True))
