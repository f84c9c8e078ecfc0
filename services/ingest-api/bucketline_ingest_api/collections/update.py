"""Changes of a collection: its name, description, metadata, and whether it is enabled."""

from bucketline.db.collections import CollectionDocument
from bucketline.db.mongo import DuplicateKey
from bucketline.domain.field_validation import free_form_faults
from bucketline.errors import BadRequest, NotFound, ValidationFailed
from bucketline_ingest_api.collections.create import name_taken
from bucketline_ingest_api.collections.lookup import live_collection
from bucketline_ingest_api.collections.schemas import UpdateCollection
from bucketline_ingest_api.container import Container


async def change_collection(
    deps: Container, namespace_id: str, identifier: str, body: UpdateCollection
) -> CollectionDocument:
    """The collection afterwards."""
    collection = await live_collection(deps, namespace_id, identifier)
    sent = body.model_fields_set
    changes: dict[str, object] = {}
    if body.collection_name is not None:
        changes["name"] = body.collection_name
    if "description" in sent:
        changes["description"] = body.description
    if body.enabled is not None:
        changes["enabled"] = body.enabled
    if "metadata" in sent:
        if faults := free_form_faults(body.metadata or {}, ("body", "metadata")):
            raise ValidationFailed(faults)
        changes["metadata"] = body.metadata or {}
    if not changes:
        raise BadRequest("nothing to change", code="nothing_to_change")
    changes["updated_at"] = deps.clock.now()
    try:
        changed = await deps.collections.change(collection["_id"], changes)
    except DuplicateKey as error:
        raise name_taken(str(body.collection_name)) from error
    if changed is None:
        raise NotFound.of("collection", identifier)
    deps.forget_buckets()
    return changed
