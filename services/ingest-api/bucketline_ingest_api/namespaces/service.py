"""Create, find, list and update namespaces."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from bucketline.db.mongo import DuplicateKey
from bucketline.db.namespaces import NamespaceDocument
from bucketline.db.repository import Repository
from bucketline.domain.pagination import NAMESPACES
from bucketline.errors import AlreadyExists, Forbidden, NotFound
from bucketline_ingest_api.auth import Principal, can_access
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.deletion import schedule_expiry
from bucketline_ingest_api.namespaces.schemas import CreateNamespace, Namespace, UpdateNamespace
from bucketline_ingest_api.pagination import ListSpec, field_mapper

LIST_SPEC = ListSpec(
    bounds=NAMESPACES,
    field_path=field_mapper({"namespace_id": "_id", "namespace_name": "name"}, unchanged=Namespace.model_fields),
    searched=("_id", "name", "description"),
    exact=frozenset({"namespace_id"}),
)
MAX_CONCURRENCY = 4

Counts = dict[str, int]


async def find_namespace(
    container: Container, caller: Principal, identifier: str, *, deleting: bool = False
) -> NamespaceDocument:
    """Return the namespace with this id or name; one that is being deleted only if ``deleting``.

    Raises :class:`NotFound`, also for a namespace that the key may not access.
    """
    namespace = await container.namespaces.resolve(caller.organization_id, identifier)
    if namespace is None or not can_access(caller, namespace) or (namespace.get("deleting") and not deleting):
        raise NotFound.of("namespace", identifier)
    return namespace


async def create_namespace(container: Container, caller: Principal, body: CreateNamespace) -> NamespaceDocument:
    """Create a namespace. Raises :class:`AlreadyExists` when its name or id is taken.

    A key that is restricted to some namespaces cannot create others, since it could not access them.
    """
    if caller.namespaces:
        raise Forbidden("this key is restricted to some namespaces and cannot create others")
    now = container.clock.now()
    namespace: NamespaceDocument = {
        "_id": body.namespace_id or container.ids.new("ns"),
        "name": body.namespace_name,
        "organization_id": caller.organization_id,
        "description": body.description,
        "mode": body.mode,
        "settings": {},
        "created_at": now,
        "updated_at": now,
    }
    if body.ttl_seconds is not None:
        namespace["expires_at"] = now + timedelta(seconds=body.ttl_seconds)
    await schedule_expiry(container, namespace)
    try:
        await container.namespaces.create(namespace)
    except DuplicateKey as error:
        if error.index == "name":
            raise _name_taken(body.namespace_name) from error
        raise AlreadyExists(
            "a namespace with this id exists",
            code="namespace_id_taken",
            details={"namespace_id": namespace["_id"]},
        ) from error
    return namespace


async def update_namespace(
    container: Container, caller: Principal, identifier: str, body: UpdateNamespace
) -> NamespaceDocument:
    """Set the fields that were sent and return the updated namespace."""
    namespace = await find_namespace(container, caller, identifier)
    sent, now = body.model_fields_set, container.clock.now()
    changes: dict[str, object] = {"updated_at": now}
    if body.namespace_name is not None:
        changes["name"] = body.namespace_name
    if "description" in sent:
        changes["description"] = body.description
    if "expires_at" in sent:
        changes["expires_at"] = body.expires_at
    elif "ttl_seconds" in sent:
        changes["expires_at"] = None if body.ttl_seconds is None else now + timedelta(seconds=body.ttl_seconds)
    if "expires_at" in changes:
        await schedule_expiry(container, {**namespace, **changes})  # type: ignore[typeddict-item]  # changes are its fields
    try:
        updated = await container.namespaces.change(namespace["_id"], changes)
    except DuplicateKey as error:
        raise _name_taken(str(body.namespace_name)) from error
    if updated is None:
        raise NotFound.of("namespace", identifier)
    container.auth.forget()
    return updated


async def count_contents(container: Container, namespaces: Sequence[NamespaceDocument]) -> list[Counts]:
    """Count the contents of each namespace; exact up to 20,000 of a kind, above that at most ten seconds old."""
    slots = asyncio.Semaphore(MAX_CONCURRENCY)
    counted: dict[str, Repository[Any]] = {
        "bucket_count": container.buckets,
        "collection_count": container.collections,
        "object_count": container.objects,
        "document_count": container.documents,
    }

    async def count(namespace_id: str) -> Counts:
        where = {"namespace_id": namespace_id}
        async with slots:
            counts = await asyncio.gather(
                *(container.counter.count(rows, where, key=f"{kind} {namespace_id}") for kind, rows in counted.items())
            )
        return dict(zip(counted, counts, strict=True))

    return list(await asyncio.gather(*(count(namespace["_id"]) for namespace in namespaces)))


def _name_taken(name: str) -> AlreadyExists:
    return AlreadyExists(
        "a namespace with this name exists", code="namespace_name_taken", details={"namespace_name": name}
    )
