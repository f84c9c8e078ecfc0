"""Documents that other documents refer to, attached to these under ``_expanded``: one level deep."""

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


async def references(
    deps: Container, namespace_id: str, documents: Sequence[DocumentDocument], paths: Sequence[str]
) -> list[dict[str, Any]]:
    """What each document refers to in its fields at ``paths`` (dots lead into objects and lists), by path.

    One document where the field holds one id, a list where it holds several; what is not the id of a document of the
    namespace is left out. :class:`ValidationFailed` when the page refers to more than :data:`MAX_REFERENCES`.
    """
    held = [{path: _at(document["fields"], path.split(".")) for path in paths} for document in documents]
    wanted = {ref for row in held for value in row.values() for ref in _ids(value)}
    if len(wanted) > MAX_REFERENCES:
        message = (
            f"the page refers to {len(wanted)} documents; at most {MAX_REFERENCES} are expanded: set a lower limit"
        )
        raise ValidationFailed([ValidationIssue("too_long", ("body", "expand"), message)])
    rows = await deps.documents.search(
        {"_id": {"$in": sorted(wanted)}, "namespace_id": namespace_id}, limit=MAX_REFERENCES
    )
    found = {row["_id"]: _shown(row) for row in rows}

    def resolved(value: object) -> object:
        if isinstance(value, list):
            return [found[ref] for ref in _ids(value) if ref in found]
        return found.get(value) if isinstance(value, str) else None

    return [{path: resolved(value) for path, value in row.items()} for row in held]


async def expanded(deps: Container, document: DocumentDocument, names: Sequence[str]) -> dict[str, Any]:
    """What one document refers to: its lineage (parent, root_object, ancestors, children), or fields of its own."""
    paths = [name for name in names if name not in ("parent", "root_object", "ancestors", "children")]
    [found] = await references(deps, document["namespace_id"], [document], paths)
    for name in names:
        match name:
            case "parent" | "ancestors":
                above = await _ancestors(deps, document)
                found[name] = above if name == "ancestors" else above[-1] if above else None
            case "children":
                found[name] = await _children(deps, document)
            case "root_object":
                obj = await deps.objects.get(document["bucket_id"], document["object_id"])
                found[name] = serialize(obj, deps.blobstore.url_of) if obj is not None else None
    return found


async def _ancestors(deps: Container, document: DocumentDocument) -> list[dict[str, Any]]:
    """Documents that this one was made of, the first one first."""
    lineage = document["internal"].get("lineage")
    chain = lineage.get("chain") if isinstance(lineage, Mapping) else None
    ids = [str(link.get("document_id")) for link in chain or () if isinstance(link, Mapping)]
    above = [identifier for identifier in ids if identifier != document["_id"]]
    rows = await deps.documents.search(
        {"_id": {"$in": above}, "namespace_id": document["namespace_id"]}, limit=len(above) or 1
    )
    found = {row["_id"]: _shown(row) for row in rows}
    return [found[identifier] for identifier in above if identifier in found]


async def _children(deps: Container, document: DocumentDocument) -> list[dict[str, Any]]:
    where = {"object_id": document["object_id"], "source_document_id": document["_id"]}
    rows = await deps.documents.search(
        where, limit=MAX_CHILDREN, sort=[("collection_id", 1), ("run", 1), ("ordinal", 1)]
    )
    return [_shown(row) for row in rows]


def _shown(document: DocumentDocument) -> dict[str, Any]:
    return Document.of(document).model_dump(mode="json", by_alias=True)


def _ids(value: object) -> Iterator[str]:
    """Ids of documents; lists of lists are one list."""
    if isinstance(value, str) and value.startswith("doc_"):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _ids(item)


def _at(value: object, path: Sequence[str]) -> object:
    """The value at the path; those of all elements where a list is on the way."""
    if isinstance(value, list) and path:
        return [_at(item, path) for item in value]
    if not path:
        return value
    return _at(value.get(path[0]), path[1:]) if isinstance(value, Mapping) else None
