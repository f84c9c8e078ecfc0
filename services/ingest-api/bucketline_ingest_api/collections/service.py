"""Create, find, list and update collections."""

import asyncio
from collections.abc import Sequence

from bucketline.db.collections import (
    MAX_COLLECTIONS_PER_SOURCE,
    CollectionDocument,
    ExtractorConfig,
    includes_all,
)
from bucketline.db.mongo import DuplicateKey
from bucketline.domain.collection_graph import MAX_TIERS, CollectionSource, depth
from bucketline.domain.field_validation import free_form_faults
from bucketline.domain.pagination import COLLECTIONS
from bucketline.errors import AlreadyExists, BadRequest, NotFound, ValidationFailed, ValidationIssue
from bucketline.extractors import Extractor, UnknownExtractor, validate_parameters
from bucketline_ingest_api.collections import output_schema
from bucketline_ingest_api.collections.schemas import (
    CreateCollection,
    FeatureExtractor,
    SourceConfig,
    UpdateCollection,
)
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.pagination import ListSpec, field_mapper

LIST_SPEC = ListSpec(
    bounds=COLLECTIONS,
    field_path=field_mapper(
        {"collection_id": "_id", "collection_name": "name"},
        unchanged=("description", "source", "enabled", "metadata", "created_at", "updated_at"),
    ),
    searched=("_id", "name", "description"),
    exact=frozenset({"collection_id"}),
)


async def find_collection(container: Container, namespace_id: str, identifier: str) -> CollectionDocument:
    """Return the collection with this id or name. Raises :class:`NotFound`, also while it is being deleted."""
    collection = await container.collections.resolve(namespace_id, identifier)
    if collection is None or collection.get("deleting"):
        raise NotFound.of("collection", identifier)
    return collection


async def count_documents(container: Container, collection_id: str) -> int:
    """Count the collection's documents; exact up to 20,000, above that at most ten seconds old."""
    where = {"collection_id": collection_id}
    return await container.counter.count(container.documents, where, key=f"documents {collection_id}")


async def create_collection(
    container: Container, namespace_id: str, body: CreateCollection
) -> tuple[CollectionDocument, list[str]]:
    """Create a collection; return it with warnings about fields that no source declares.

    Raises :class:`AlreadyExists` when the name is taken, and :class:`BadRequest` when a source is already read by
    :data:`MAX_COLLECTIONS_PER_SOURCE` collections. Concurrent requests may be rejected although one of them would fit,
    but the limit is never exceeded.
    """
    source, schema = await _resolve_source(container, namespace_id, body.source)
    extractor = await _find_extractor(container, body.feature_extractor)
    config = _extractor_config(body.feature_extractor, extractor)
    faults = output_schema.passthrough_issues(config["field_passthrough"], config["input_mappings"])
    faults += free_form_faults(body.metadata or {}, ("body", "metadata"))
    faults += free_form_faults(config["parameters"], ("body", "feature_extractor", "parameters"))
    faults += free_form_faults([rule["default"] for rule in config["field_passthrough"]], ("body", "feature_extractor"))
    if faults:
        raise ValidationFailed(faults)
    await _refuse_full_sources(container, source, limit=MAX_COLLECTIONS_PER_SOURCE - 1)
    now = container.clock.now()
    collection: CollectionDocument = {
        "_id": container.ids.new("col"),
        "namespace_id": namespace_id,
        "name": body.collection_name,
        "description": body.description,
        "source": source,
        "extractor": config,
        "input_schema": schema,
        "output_schema": output_schema.build_output_schema(
            schema,
            extractor.info,
            config["parameters"],
            config["field_passthrough"],
            include_all=includes_all(config),
        ),
        "enabled": body.enabled,
        "metadata": body.metadata or {},
        "created_at": now,
        "updated_at": now,
    }
    try:
        await container.collections.create(collection)
    except DuplicateKey as error:
        raise _name_taken(body.collection_name) from error
    try:
        # Concurrent requests may have passed the first check as well.
        await _refuse_full_sources(container, source, limit=MAX_COLLECTIONS_PER_SOURCE)
    except BaseException:
        await container.collections.delete_by_id(collection["_id"])
        raise
    container.forget_buckets()
    return collection, output_schema.undeclared_field_warnings(
        schema, config["field_passthrough"], config["input_mappings"]
    )


async def update_collection(
    container: Container, namespace_id: str, identifier: str, body: UpdateCollection
) -> CollectionDocument:
    """Set the fields that were sent and return the updated collection."""
    collection = await find_collection(container, namespace_id, identifier)
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
    changes["updated_at"] = container.clock.now()
    try:
        updated = await container.collections.change(collection["_id"], changes)
    except DuplicateKey as error:
        raise _name_taken(str(body.collection_name)) from error
    if updated is None:
        raise NotFound.of("collection", identifier)
    container.forget_buckets()
    return updated


async def _find_extractor(container: Container, config: FeatureExtractor) -> Extractor:
    """Return the installed extractor of this name and version."""
    try:
        # The first lookup imports the extractor's libraries, which may take seconds.
        return await asyncio.to_thread(container.extractors.find, config.feature_extractor_name, config.version)
    except UnknownExtractor as error:
        raise ValidationFailed(error.issues, code="feature_extractor_not_found") from error


def _extractor_config(config: FeatureExtractor, extractor: Extractor) -> ExtractorConfig:
    parameters = {**(config.params or {}), **(config.parameters or {})}
    return {
        "id": extractor.info.id,
        "name": extractor.info.name,
        "version": extractor.info.version,
        "input_mappings": config.mappings(),
        "field_passthrough": [
            {
                "source_path": rule.source_path,
                "target_path": rule.target_path,
                "default": rule.default,
                "required": rule.required,
            }
            for rule in config.field_passthrough or ()
        ],
        "include_all_source_fields": config.include_all_source_fields,
        "parameters": validate_parameters(extractor.info, parameters),
    }


async def _resolve_source(
    container: Container, namespace_id: str, config: SourceConfig
) -> tuple[CollectionSource, dict[str, object]]:
    """Return the sources by id and their common schema. Raises :class:`NotFound` for an unknown source."""
    if config.type == "bucket":
        buckets = []
        for identifier in config.bucket_ids or ():
            bucket = await container.bucket(namespace_id, identifier)
            if bucket is None:
                raise NotFound.of("bucket", identifier)
            buckets.append(bucket)
        bucket_ids = list(dict.fromkeys(bucket["_id"] for bucket in buckets))
        schema = output_schema.merge_schemas([bucket["schema"] for bucket in buckets])
        return {"type": "bucket", "bucket_ids": bucket_ids, "collection_ids": []}, schema
    identifiers = config.collection_ids or ([config.collection_id] if config.collection_id else [])
    sources = [await find_collection(container, namespace_id, identifier) for identifier in identifiers]
    await _check_depth(container, sources)
    collection_ids = list(dict.fromkeys(source["_id"] for source in sources))
    schema = output_schema.merge_schemas([source["output_schema"] for source in sources])
    return {"type": "collection", "bucket_ids": [], "collection_ids": collection_ids}, schema


async def _check_depth(container: Container, sources: Sequence[CollectionDocument]) -> None:
    """Reject a collection that would be too deep. There are no cycles, because sources exist before their readers."""
    tiers = await container.collections.upstream(sources)
    if depth(collection for tier in tiers for collection in tier) >= MAX_TIERS:
        message = f"collections may read each other over at most {MAX_TIERS} tiers"
        raise ValidationFailed([ValidationIssue("too_deep", ("body", "source"), message)])


async def _refuse_full_sources(container: Container, source: CollectionSource, *, limit: int) -> None:
    full = await container.collections.read_by_more(source, limit)
    if full:
        raise BadRequest(
            f"at most {MAX_COLLECTIONS_PER_SOURCE} collections may read one {source['type']}: delete one first",
            code="too_many_collections",
            details={"limit": MAX_COLLECTIONS_PER_SOURCE, f"{source['type']}_ids": full},
        )


def _name_taken(name: str) -> AlreadyExists:
    return AlreadyExists(
        "a collection with this name exists in the namespace",
        code="collection_name_taken",
        details={"collection_name": name},
    )
