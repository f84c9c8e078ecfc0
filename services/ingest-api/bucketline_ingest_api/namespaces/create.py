"""A new namespace."""

from datetime import timedelta

from bucketline.db.mongo import DuplicateKey
from bucketline.db.namespaces import NamespaceDocument
from bucketline.errors import AlreadyExists, Forbidden
from bucketline_ingest_api.auth import Principal
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.namespaces.expiry import watch_expiry
from bucketline_ingest_api.namespaces.schemas import CreateNamespace


async def create_namespace(deps: Container, caller: Principal, body: CreateNamespace) -> NamespaceDocument:
    """A new namespace; :class:`AlreadyExists` when the name or the id is taken.

    A key that is restricted to some namespaces cannot make others: it could not see what it made.
    """
    if caller.namespaces:
        raise Forbidden("this key is restricted to some namespaces and cannot create others")
    now = deps.clock.now()
    document: NamespaceDocument = {
        "_id": body.namespace_id or deps.ids.new("ns"),
        "name": body.namespace_name,
        "organization_id": caller.organization_id,
        "description": body.description,
        "mode": body.mode,
        "settings": {},
        "created_at": now,
        "updated_at": now,
    }
    if body.ttl_seconds is not None:
        document["expires_at"] = now + timedelta(seconds=body.ttl_seconds)
    await watch_expiry(deps, document)
    try:
        await deps.namespaces.collection.insert(document)
    except DuplicateKey as error:
        if error.index == "name":
            raise name_taken(body.namespace_name) from error
        raise AlreadyExists(
            "a namespace with this id exists",
            code="namespace_id_taken",
            details={"namespace_id": document["_id"]},
        ) from error
    return document


def name_taken(name: str) -> AlreadyExists:
    return AlreadyExists(
        "a namespace with this name exists", code="namespace_name_taken", details={"namespace_name": name}
    )
