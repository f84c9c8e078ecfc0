"""Documents of a collection: read, list, expand, update, delete.

Processing creates and replaces documents: an update is lost when the object is processed again, unless
``dedup_strategy`` is *skip* and the object is unchanged. Documents that another collection derived from an updated one
keep their values until they are derived again.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from typing import Any

import bson

from bucketline.db.collections import CollectionDocument
from bucketline.db.documents import DocumentDocument
from bucketline.db.objects import MAX_OBJECT_BYTES
from bucketline.domain.field_validation import name_fault, shown, storable_faults
from bucketline.domain.keyset import Partition
from bucketline.domain.moments import MOMENTS, Moments
from bucketline.domain.pagination import DOCUMENTS
from bucketline.domain.schema import MAX_FAULTS, same
from bucketline.errors import NotFound, PayloadTooLarge, ServiceUnavailable, ValidationFailed, ValidationIssue
from bucketline.ids import bound
from bucketline_ingest_api.collections.output_schema import RESERVED_NAMES
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.documents.schemas import Document, ListDocuments
from bucketline_ingest_api.objects.serializers import serialize
from bucketline_ingest_api.pagination import OLDEST_FIRST, ListSpec, Page, list_rows
from bucketline_ingest_api.schemas import ListQuery

PRESIGNED_SECONDS = 3600
MAX_ATTEMPTS = 10
MAX_REFERENCES = 50
MAX_CHILDREN = 100

_FIELDS = {
    "document_id": "_id",
    "collection_id": "collection_id",
    "_internal.lineage.root_object_id": "object_id",
    "_internal.lineage.root_bucket_id": "bucket_id",
    "_internal.ordinal": "ordinal",
}
_DATES = {"_internal.created_at": "created_at", "_internal.updated_at": "updated_at", "created_at": "created_at"}


def field_path(name: str) -> str:
    """Return the stored path of a name on the wire; names that are not ours are fields of the document."""
    if stored := _FIELDS.get(name) or _DATES.get(name):
        return stored
    root, dot, rest = name.partition(".")
    if root == MOMENTS:
        return name
    if root == "_internal":
        return f"internal{dot}{rest}"
    if root == "document_blobs":
        return f"blobs{dot}{rest}"
    return f"fields.{name}"


def partition_filter(partition: Partition) -> dict[str, object]:
    """Return the range of ids of a partition: ids are evenly distributed, so partitions have about equal sizes."""
    index, count = partition.index, partition.count
    id_range: dict[str, object] = {}
    if index > 0:
        id_range["$gte"] = bound("doc", index, count)
    if index + 1 < count:
        id_range["$lt"] = bound("doc", index + 1, count)
    return {"_id": id_range} if id_range else {}


LIST_SPEC = ListSpec(
    bounds=DOCUMENTS,
    partitioned=partition_filter,
    field_path=field_path,
    searched=("_id", "fields.text", "fields.title", "object_id"),
    order=OLDEST_FIRST,
    ties=("_internal.lineage.root_object_id", "_internal.ordinal"),
    simple=("_id", "created_at", "object_id", "ordinal"),
    counted=False,
    under="fields",
    dates=frozenset(_DATES),
    exact=frozenset({"document_id", "collection_id", "_internal.lineage.root_object_id"}),
)


async def get_document(deps: Container, collection_id: str, document_id: str) -> DocumentDocument:
    """Return the document; :class:`NotFound` also for one of another collection."""
    document = await deps.documents.get_by_id(document_id)
    if document is None or document["collection_id"] != collection_id:
        raise NotFound.of("document", document_id)
    return document


async def list_documents(
    deps: Container, collection: CollectionDocument, query: ListQuery, body: ListDocuments | None
) -> Page[DocumentDocument]:
    """Return a page of documents, oldest first; those of one object in the order of their content."""
    requested = body.partition if body is not None else None
    partition = Partition(requested.index, requested.count) if requested is not None else None
    spec = replace(LIST_SPEC, moments=Moments(collection["output_schema"]))
    scope = {"collection_id": collection["_id"]}
    return await list_rows(deps.documents, scope, spec, query, body, partition)


async def expand_fields(
    deps: Container, namespace_id: str, documents: Sequence[DocumentDocument], paths: Sequence[str]
) -> list[dict[str, Any]]:
    """Return for each document, by path, the documents that its fields at ``paths`` refer to.

    Dots in a path select inside objects and lists. The value is a document for a field with one id, and a list for a
    list of ids; values that are not ids of documents of the namespace are ignored. :class:`ValidationFailed` if the
    page refers to more than :data:`MAX_REFERENCES` documents.
    """
    values = [{path: _value_at(document["fields"], path.split(".")) for path in paths} for document in documents]
    ids = {ref for row in values for value in row.values() for ref in _ids(value)}
    if len(ids) > MAX_REFERENCES:
        message = f"the page refers to {len(ids)} documents; at most {MAX_REFERENCES} are expanded: set a lower limit"
        raise ValidationFailed([ValidationIssue("too_long", ("body", "expand"), message)])
    documents_by_id = await _find_serialized(deps, namespace_id, ids)

    def resolve(value: object) -> object:
        if isinstance(value, list):
            return [documents_by_id[ref] for ref in _ids(value) if ref in documents_by_id]
        return documents_by_id.get(value) if isinstance(value, str) else None

    return [{path: resolve(value) for path, value in row.items()} for row in values]


async def expand_document(deps: Container, document: DocumentDocument, names: Sequence[str]) -> dict[str, Any]:
    """Return what one document refers to: its lineage (parent, root_object, ancestors, children) or its own fields."""
    paths = [name for name in names if name not in ("parent", "root_object", "ancestors", "children")]
    [expanded] = await expand_fields(deps, document["namespace_id"], [document], paths)
    for name in names:
        match name:
            case "parent" | "ancestors":
                ancestors = await _ancestors(deps, document)
                expanded[name] = ancestors if name == "ancestors" else ancestors[-1] if ancestors else None
            case "children":
                expanded[name] = await _children(deps, document)
            case "root_object":
                obj = await deps.objects.get(document["bucket_id"], document["object_id"])
                expanded[name] = serialize(obj, deps.blobstore.url_of) if obj is not None else None
    return expanded


async def _ancestors(deps: Container, document: DocumentDocument) -> list[dict[str, Any]]:
    """Return the documents that this one was derived from, the first one first."""
    lineage = document["internal"].get("lineage")
    chain = lineage.get("chain") if isinstance(lineage, Mapping) else None
    ids = [str(link.get("document_id")) for link in chain or () if isinstance(link, Mapping)]
    ancestors = await _find_serialized(deps, document["namespace_id"], ids)
    return [ancestors[ref] for ref in ids if ref in ancestors and ref != document["_id"]]


async def _children(deps: Container, document: DocumentDocument) -> list[dict[str, Any]]:
    where = {"object_id": document["object_id"], "source_document_id": document["_id"]}
    rows = await deps.documents.search(
        where, limit=MAX_CHILDREN, sort=[("collection_id", 1), ("run", 1), ("ordinal", 1)]
    )
    return [Document.of(row).to_json() for row in rows]


async def _find_serialized(deps: Container, namespace_id: str, ids: Collection[str]) -> dict[str, dict[str, Any]]:
    where = {"_id": {"$in": sorted(ids)}, "namespace_id": namespace_id}
    return {row["_id"]: Document.of(row).to_json() for row in await deps.documents.search(where, limit=len(ids) or 1)}


def _ids(value: object) -> Iterator[str]:
    """Yield the document ids in a value; nested lists are flattened."""
    if isinstance(value, str) and value.startswith("doc_"):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _ids(item)


def _value_at(value: object, path: Sequence[str]) -> object:
    """Return the value at the path; inside a list, the values of all elements."""
    if isinstance(value, list) and path:
        return [_value_at(item, path) for item in value]
    if not path:
        return value
    return _value_at(value.get(path[0]), path[1:]) if isinstance(value, Mapping) else None


async def update_document(
    deps: Container, collection_id: str, document_id: str, sent: Mapping[str, object]
) -> DocumentDocument:
    """Set the fields that were sent. In ``metadata`` each key is set on its own, and null removes one."""
    if faults := _validate_fields(sent):
        raise ValidationFailed(faults)
    for _ in range(MAX_ATTEMPTS):
        existing = await get_document(deps, collection_id, document_id)
        fields = merge_fields(existing["fields"], sent)
        if same(fields, existing["fields"]):
            return existing
        _refuse_too_large(fields)
        # Later than the version that was read: concurrent updates are detected by this time.
        at = max(deps.clock.now(), existing["updated_at"] + timedelta(milliseconds=1))
        changed = await deps.documents.change(existing, fields, at)
        if changed is not None:
            return changed
    raise ServiceUnavailable("the document is being modified concurrently; try again", retry_after_seconds=1)


def merge_fields(stored: Mapping[str, object], sent: Mapping[str, object]) -> dict[str, object]:
    """Return the stored fields with the changes that were sent."""
    fields = {**stored, **sent}
    metadata = sent.get("metadata")
    if isinstance(metadata, dict):
        existing = stored.get("metadata")
        merged = {**existing, **metadata} if isinstance(existing, dict) else metadata
        fields["metadata"] = {
            name: value for name, value in merged.items() if value is not None or name not in metadata
        }
    return fields


def _validate_fields(sent: Mapping[str, object]) -> list[ValidationIssue]:
    faults: list[ValidationIssue] = []
    for name, value in sent.items():
        at = ("body", shown(name))
        if name in RESERVED_NAMES or name.startswith("_"):
            faults.append(ValidationIssue("reserved", at, f"{shown(name)!r} is set by the server"))
        elif (reason := name_fault(name)) is not None:
            faults.append(ValidationIssue("field_name", at, reason))
        else:
            faults += islice(storable_faults(value, at), MAX_FAULTS)
        if len(faults) >= MAX_FAULTS:
            break
    return faults[:MAX_FAULTS]


def _refuse_too_large(fields: Mapping[str, object]) -> None:
    size = len(bson.encode(fields))
    if size > MAX_OBJECT_BYTES:
        raise PayloadTooLarge(
            f"fields of a document may have at most {MAX_OBJECT_BYTES} bytes together",
            details={"limit_bytes": MAX_OBJECT_BYTES, "size_bytes": size},
        )


async def delete_document(deps: Container, collection_id: str, document_id: str) -> None:
    """Delete one document. Processing its object again creates it again."""
    if not await deps.documents.delete_from(collection_id, document_id):
        raise NotFound.of("document", document_id)


async def presign_blobs(deps: Container, documents: Sequence[DocumentDocument]) -> dict[str, str]:
    """Return download URLs, valid for an hour, by stored URL: of the blobs that are in our own store."""
    urls: dict[str, str] = {}
    for document in documents:
        for blob in document["blobs"]:
            stored_url = str(blob.get("url", ""))
            key = deps.blobstore.key_of(stored_url)
            if key is not None and stored_url not in urls:
                urls[stored_url] = await deps.blobstore.presign_get(key, expires=PRESIGNED_SECONDS)
    return urls
