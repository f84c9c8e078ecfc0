"""Use cases of namespaces."""

from typing import Any

from bucketline.errors import AlreadyExists
from bucketline.storage.mongo import DuplicateKey
from bucketline.storage.namespaces import NamespaceDocument
from ingest_api.deps import Deps
from ingest_api.keys import Caller
from ingest_api.schemas.namespaces import CreateNamespace


async def create_namespace(deps: Deps, caller: Caller, body: CreateNamespace) -> NamespaceDocument:
    """A new namespace; :class:`AlreadyExists` when the name or the id is taken."""
    now = deps.clock.now()
    extra: dict[str, Any] = dict(body.model_extra or {})
    if body.ttl_seconds is not None:
        extra["ttl_seconds"] = body.ttl_seconds
    document: NamespaceDocument = {
        "_id": body.namespace_id or deps.ids.new("ns"),
        "name": body.namespace_name,
        "organization_id": caller.organization_id,
        "description": body.description,
        "mode": body.mode,
        "settings": extra,
        "created_at": now,
        "updated_at": now,
    }
    try:
        await deps.namespaces.collection.insert(document)
    except DuplicateKey as error:
        raise AlreadyExists(
            "a namespace with this name exists",
            code="namespace_name_taken",
            details={"namespace_name": body.namespace_name},
        ) from error
    return document
