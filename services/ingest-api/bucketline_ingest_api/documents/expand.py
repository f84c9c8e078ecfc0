"""Expands references: attaches the documents that a document refers to under ``_expanded``, one level deep."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bucketline.db.documents import DocumentDocument
from bucketline.errors import ValidationFailed, ValidationIssue
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.documents.schemas import Document
from bucketline_ingest_api.objects.serializers import serialize

MAX_REFERENCES = 50
MAX_CHILDREN = 100
EXPANDED = "_expanded"


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
    rows = await deps.documents.search(
        {"_id": {"$in": sorted(ids)}, "namespace_id": namespace_id}, limit=MAX_REFERENCES
    )
    documents_by_id = {row["_id"]: _serialize(row) for row in rows}

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
    ancestor_ids = [identifier for identifier in ids if identifier != document["_id"]]
    rows = await deps.documents.search(
        {"_id": {"$in": ancestor_ids}, "namespace_id": document["namespace_id"]}, limit=len(ancestor_ids) or 1
    )
    ancestors = {row["_id"]: _serialize(row) for row in rows}
    return [ancestors[identifier] for identifier in ancestor_ids if identifier in ancestors]


async def _children(deps: Container, document: DocumentDocument) -> list[dict[str, Any]]:
    where = {"object_id": document["object_id"], "source_document_id": document["_id"]}
    rows = await deps.documents.search(
        where, limit=MAX_CHILDREN, sort=[("collection_id", 1), ("run", 1), ("ordinal", 1)]
    )
    return [_serialize(row) for row in rows]


def _serialize(document: DocumentDocument) -> dict[str, Any]:
    return Document.of(document).model_dump(mode="json", by_alias=True)


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
