"""Documents of a collection: one, a page, their blobs' URLs."""

from collections.abc import Sequence
from dataclasses import replace

from bucketline.db.collections import CollectionDocument
from bucketline.db.documents import DocumentDocument
from bucketline.domain.keyset import Partition
from bucketline.domain.moments import MOMENTS, Moments
from bucketline.domain.pagination import DOCUMENTS
from bucketline.errors import NotFound
from bucketline.ids import bound
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.documents.schemas import ListDocuments
from bucketline_ingest_api.pagination import OLDEST_FIRST, ListSpec, Page, list_rows
from bucketline_ingest_api.schemas import ListQuery

PRESIGNED_SECONDS = 3600

_OURS = {
    "document_id": "_id",
    "collection_id": "collection_id",
    "_internal.lineage.root_object_id": "object_id",
    "_internal.lineage.root_bucket_id": "bucket_id",
    "_internal.ordinal": "ordinal",
}
_DATES = {"_internal.created_at": "created_at", "_internal.updated_at": "updated_at", "created_at": "created_at"}


def field_path(name: str) -> str:
    """A name on the wire as a stored path: what is not ours is a field of the document."""
    if stored := _OURS.get(name) or _DATES.get(name):
        return stored
    root, dot, rest = name.partition(".")
    if root == MOMENTS:
        return name
    if root == "_internal":
        return f"internal{dot}{rest}"
    if root == "document_blobs":
        return f"blobs{dot}{rest}"
    return f"fields.{name}"


def partitioned(partition: Partition) -> dict[str, object]:
    """Documents of one partition: ids are hashes, so that ranges of equal width hold about as many of them."""
    index, count = partition.index, partition.count
    within: dict[str, object] = {}
    if index > 0:
        within["$gte"] = bound("doc", index, count)
    if index + 1 < count:
        within["$lt"] = bound("doc", index + 1, count)
    return {"_id": within} if within else {}


KIND = ListSpec(
    bounds=DOCUMENTS,
    partitioned=partitioned,
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
    """:class:`NotFound` also for a document of another collection."""
    document = await deps.documents.get_by_id(document_id)
    if document is None or document["collection_id"] != collection_id:
        raise NotFound.of("document", document_id)
    return document


async def list_documents(
    deps: Container, collection: CollectionDocument, asked: ListQuery, body: ListDocuments | None
) -> Page[DocumentDocument]:
    """Documents of the collection, oldest first; those of one object in the order in which it was read."""
    named = body.partition if body is not None else None
    partition = Partition(named.index, named.count) if named is not None else None
    kind = replace(KIND, moments=Moments(collection["output_schema"]))
    scope = {"collection_id": collection["_id"]}
    return await list_rows(deps.documents, scope, kind, asked, body, partition)


async def delete_document(deps: Container, collection_id: str, document_id: str) -> None:
    """Removes one document. Processing its object again makes it again."""
    if not await deps.documents.delete_from(collection_id, document_id):
        raise NotFound.of("document", document_id)


async def presigned(deps: Container, documents: Sequence[DocumentDocument]) -> dict[str, str]:
    """URLs good for an hour, by the stored URL, of those blobs that are in our own store."""
    urls: dict[str, str] = {}
    for document in documents:
        for blob in document["blobs"]:
            stored = str(blob.get("url", ""))
            key = deps.blobstore.key_of(stored)
            if key is not None and stored not in urls:
                urls[stored] = await deps.blobstore.presign_get(key, expires=PRESIGNED_SECONDS)
    return urls
