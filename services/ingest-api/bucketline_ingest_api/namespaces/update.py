"""Changes of a namespace: only what is sent."""

from datetime import timedelta

from bucketline.db.mongo import DuplicateKey
from bucketline.db.namespaces import NamespaceDocument
from bucketline.errors import NotFound
from bucketline_ingest_api.auth import Principal
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.namespaces.create import name_taken
from bucketline_ingest_api.namespaces.expiry import watch_expiry
from bucketline_ingest_api.namespaces.read import live_namespace
from bucketline_ingest_api.namespaces.schemas import ChangeNamespace


async def change_namespace(
    deps: Container, caller: Principal, identifier: str, body: ChangeNamespace
) -> NamespaceDocument:
    """The namespace afterwards."""
    namespace = await live_namespace(deps, caller, identifier)
    changes: dict[str, object] = {"updated_at": deps.clock.now()}
    if body.namespace_name is not None:
        changes["name"] = body.namespace_name
    if "description" in body.model_fields_set:
        changes["description"] = body.description
    if "expires_at" in body.model_fields_set:
        changes["expires_at"] = body.expires_at
    elif "ttl_seconds" in body.model_fields_set:
        lifetime = None if body.ttl_seconds is None else timedelta(seconds=body.ttl_seconds)
        changes["expires_at"] = deps.clock.now() + lifetime if lifetime else None
    if "expires_at" in changes:
        await watch_expiry(deps, {**namespace, **changes})  # type: ignore[typeddict-item]  # changes are fields of it
    try:
        changed = await deps.namespaces.change(namespace["_id"], changes)
    except DuplicateKey as error:
        raise name_taken(str(body.namespace_name)) from error
    if changed is None:
        raise NotFound.of("namespace", identifier)
    deps.auth.forget()
    return changed
