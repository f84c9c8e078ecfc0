"""A new collection: its sources exist, its extractor is installed and takes the parameters."""

import asyncio

from bucketline.db.collections import (
    MAX_COLLECTIONS_A_SOURCE,
    CollectionDocument,
    CollectionSource,
    ExtractorConfig,
    FieldPassthrough,
    includes_all,
)
from bucketline.db.mongo import DuplicateKey
from bucketline.domain.collection_depth import MAX_TIERS
from bucketline.domain.field_validation import free_form_faults
from bucketline.errors import AlreadyExists, BadRequest, NotFound, ValidationFailed, ValidationIssue
from bucketline.extractors import Extractor, UnknownExtractor, validate_parameters
from bucketline_ingest_api.collections import output_schema
from bucketline_ingest_api.collections.lookup import live_collection
from bucketline_ingest_api.collections.schemas import CreateCollection, FeatureExtractor, SourceConfig
from bucketline_ingest_api.container import Container


async def create_collection(
    deps: Container, namespace_id: str, body: CreateCollection
) -> tuple[CollectionDocument, list[str]]:
    """The collection, and what looks wrong but may be right. :class:`AlreadyExists` when the name is taken.

    :class:`BadRequest` when a source is read by as many collections as it may be. Of several that are made at the same
    moment it may refuse more than it had to, but never takes one too many.
    """
    source, schema = await _source(deps, namespace_id, body.source)
    extractor = await find_extractor(deps, body.feature_extractor)
    config = _config(body.feature_extractor, extractor)
    faults = output_schema.passthrough_faults(config["field_passthrough"], config["input_mappings"])
    faults += free_form_faults(body.metadata or {}, ("body", "metadata"))
    faults += free_form_faults(config["parameters"], ("body", "feature_extractor", "parameters"))
    faults += free_form_faults([rule["default"] for rule in config["field_passthrough"]], ("body", "feature_extractor"))
    if faults:
        raise ValidationFailed(faults)
    await _refuse_full(deps, source, than=MAX_COLLECTIONS_A_SOURCE - 1)
    now = deps.clock.now()
    collection: CollectionDocument = {
        "_id": deps.ids.new("col"),
        "namespace_id": namespace_id,
        "name": body.collection_name,
        "description": body.description,
        "source": source,
        "extractor": config,
        "input_schema": schema,
        "output_schema": output_schema.output_schema(
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
        await deps.collections.collection.insert(collection)
    except DuplicateKey as error:
        raise name_taken(body.collection_name) from error
    try:
        await _refuse_full(deps, source, than=MAX_COLLECTIONS_A_SOURCE)  # others may have been made meanwhile
    except BaseException:
        await deps.collections.collection.delete_one({"_id": collection["_id"]})
        raise
    deps.forget_buckets()
    return collection, output_schema.warnings(schema, config["field_passthrough"], config["input_mappings"])


async def find_extractor(deps: Container, wanted: FeatureExtractor) -> Extractor:
    """The installed extractor of this name and version."""
    try:
        # the first look imports the extractor's libraries, which takes its time
        return await asyncio.to_thread(deps.extractors.find, wanted.feature_extractor_name, wanted.version)
    except UnknownExtractor as error:
        raise ValidationFailed(error.issues, code="feature_extractor_not_found") from error


def name_taken(name: str) -> AlreadyExists:
    return AlreadyExists(
        "a collection with this name exists in the namespace",
        code="collection_name_taken",
        details={"collection_name": name},
    )


async def _refuse_full(deps: Container, source: CollectionSource, *, than: int) -> None:
    full = await deps.collections.read_by_more(source, than)
    if full:
        raise BadRequest(
            f"at most {MAX_COLLECTIONS_A_SOURCE} collections read one {source['type']}: delete one first",
            code="too_many_collections",
            details={"limit": MAX_COLLECTIONS_A_SOURCE, f"{source['type']}_ids": full},
        )


def _config(wanted: FeatureExtractor, extractor: Extractor) -> ExtractorConfig:
    rules: list[FieldPassthrough] = [
        {
            "source_path": rule.source_path,
            "target_path": rule.target_path,
            "default": rule.default,
            "required": rule.required,
        }
        for rule in wanted.field_passthrough or ()
    ]
    return {
        "id": extractor.info.id,
        "name": extractor.info.name,
        "version": extractor.info.version,
        "input_mappings": wanted.mappings(),
        "field_passthrough": rules,
        "include_all_source_fields": wanted.include_all_source_fields,
        "parameters": validate_parameters(extractor.info, {**(wanted.params or {}), **(wanted.parameters or {})}),
    }


async def _source(
    deps: Container, namespace_id: str, wanted: SourceConfig
) -> tuple[CollectionSource, dict[str, object]]:
    """The sources by id, and what their rows look like. :class:`NotFound` for one that is not in the namespace."""
    if wanted.type == "bucket":
        buckets = []
        for identifier in wanted.bucket_ids or ():
            bucket = await deps.bucket(namespace_id, identifier)
            if bucket is None:
                raise NotFound.of("bucket", identifier)
            buckets.append(bucket)
        ids = list(dict.fromkeys(bucket["_id"] for bucket in buckets))
        return _of("bucket", ids), output_schema.merged([bucket["schema"] for bucket in buckets])
    identifiers = wanted.collection_ids or ([wanted.collection_id] if wanted.collection_id else [])
    parents = [await live_collection(deps, namespace_id, identifier) for identifier in identifiers]
    await _check_depth(deps, parents)
    ids = list(dict.fromkeys(parent["_id"] for parent in parents))
    return _of("collection", ids), output_schema.merged([parent["output_schema"] for parent in parents])


def _of(kind: str, ids: list[str]) -> CollectionSource:
    if kind == "bucket":
        return {"type": "bucket", "bucket_ids": ids, "collection_ids": []}
    return {"type": "collection", "bucket_ids": [], "collection_ids": ids}


async def _check_depth(deps: Container, tier: list[CollectionDocument]) -> None:
    """A collection cannot read itself, however indirectly, because its sources are there before it."""
    for _ in range(MAX_TIERS - 1):
        ids = [identifier for collection in tier for identifier in collection["source"]["collection_ids"]]
        if not ids:
            return
        tier = await deps.collections.collection.find({"_id": {"$in": ids}}, limit=len(ids))
    raise ValidationFailed(
        [ValidationIssue("too_deep", ("body", "source"), f"collections read each other over at most {MAX_TIERS} tiers")]
    )
