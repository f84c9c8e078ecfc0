"""Request and response bodies of the document routes."""

from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator

from bucketline.db.documents import DocumentDocument
from bucketline_ingest_api.schemas import ListBody, Pagination, RequestBody, ResponseBody, Unsupported, example

_EXAMPLE: dict[str, Any] = {
    "document_id": "doc_06h2k4v9c3f8m1q7r5tx",
    "collection_id": "col_06h2k4v9c3f8m1q7r5tw",
    "sku": "A-17",
    "document_blobs": [],
    "_internal": {
        "namespace_id": "ns_06h2k4v9c3f8m1q7r5tv",
        "document_id": "doc_06h2k4v9c3f8m1q7r5tx",
        "collection_id": "col_06h2k4v9c3f8m1q7r5tw",
        "ordinal": 0,
        "created_at": "2026-03-01T09:00:05.250Z",
        "updated_at": "2026-03-01T09:00:05.250Z",
        "lineage": {
            "root_object_id": "obj_06h2k4v9c3f8m1q7r5tu",
            "root_bucket_id": "bkt_06h2k4v9c3f8m1q7r5tt",
            "source_type": "bucket",
            "source_object_id": "obj_06h2k4v9c3f8m1q7r5tu",
            "path": "bkt_06h2k4v9c3f8m1q7r5tt/col_06h2k4v9c3f8m1q7r5tw",
            "chain": [],
        },
    },
}


class Document(ResponseBody):
    """A document. Its own fields are at the root, next to those declared here."""

    model_config = ConfigDict(
        extra="allow", serialize_by_alias=True, validate_by_name=True, validate_by_alias=True, **example(_EXAMPLE)
    )

    document_id: str
    collection_id: str
    document_blobs: list[dict[str, Any]] = Field(default_factory=list)
    internal: dict[str, Any] = Field(alias="_internal")

    @classmethod
    def of(cls, document: DocumentDocument, urls: dict[str, str] | None = None) -> "Document":
        """Build the response of a document; ``urls`` are download URLs by the stored URL of a blob."""
        blobs = [
            {**blob, "presigned_url": url} if (url := (urls or {}).get(str(blob.get("url")))) else dict(blob)
            for blob in document["blobs"]
        ]
        return cls.model_validate(
            {
                **document["fields"],
                "document_id": document["_id"],
                "collection_id": document["collection_id"],
                "document_blobs": blobs,
                "_internal": {**document["internal"], "ordinal": document["ordinal"]},
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Return the document as it is sent."""
        return self.model_dump(mode="json", by_alias=True)


class DocumentListStats(ResponseBody):
    """Statistics of a page."""

    total_documents: int | None = None
    avg_blobs_per_document: float = 0.0


class DocumentList(ResponseBody):
    """A page of documents. ``total_documents`` is set with ``include_total`` only."""

    model_config = example(
        {
            "results": [_EXAMPLE],
            "pagination": {"page": 1, "page_size": 10, "next_page": None, "previous_page": None, "next_cursor": None},
            "total_documents": None,
            "stats": {"total_documents": None, "avg_blobs_per_document": 0.0},
        }
    )

    results: list[Document]
    pagination: Pagination
    total_documents: int | None = None
    stats: DocumentListStats


Expand = Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=20)]


class Partition(RequestBody):
    """One of ``count`` disjoint parts of the matching documents, for concurrent readers."""

    index: int = Field(ge=0, strict=True)
    count: int = Field(ge=1, le=256, strict=True)

    @model_validator(mode="after")
    def _within(self) -> Self:
        if self.index >= self.count:
            raise ValueError(f"index {self.index} is not below count {self.count}")
        return self


class ListDocuments(ListBody):
    """How to list documents. Vectors and groups are not supported."""

    model_config = example(
        {"filters": {"AND": [{"field": "sku", "operator": "eq", "value": "A-17"}]}, "return_presigned_urls": True}
    )

    select: list[str] | None = Field(default=None, max_length=200, description="Keep these fields and the ids.")
    expand: Expand | None = Field(
        default=None, description="Fields that hold document ids; the documents are attached under `_expanded`."
    )
    partition: Partition | None = Field(default=None, description="Cursors of following pages include it.")
    return_presigned_urls: bool | None = None
    return_vectors: Unsupported = None
    return_vector_names: Unsupported = None
    group_by: Unsupported = None


class DocumentCount(ResponseBody):
    """The number of documents of a collection."""

    model_config = example({"collection_id": "col_06h2k4v9c3f8m1q7r5tw", "count": 17})

    collection_id: str
    count: int
