"""Request and response bodies of the collection endpoints."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from bucketline.db.collections import CollectionDocument
from bucketline_ingest_api.schemas import (
    ListBody,
    ListResponse,
    Name,
    Pagination,
    RequestBody,
    ResponseBody,
    Timestamp,
    Unsupported,
    example,
)

CollectionName = Annotated[Name, Field(min_length=3, max_length=100)]
Path = Annotated[str, Field(min_length=1, max_length=256)]
Identifiers = Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(min_length=1, max_length=100)]

_SOURCE = {"type": "bucket", "bucket_ids": ["bkt_06h2k4v9c3f8m1q7r5tw"]}
_EXTRACTOR = {
    "feature_extractor_name": "passthrough_extractor",
    "version": "v1",
    "field_passthrough": [{"source_path": "sku"}, {"source_path": "vendor.name", "target_path": "vendor"}],
}


class SourceConfig(RequestBody):
    """Names what the collection reads, by id or name: buckets, or other collections."""

    type: Literal["bucket", "collection"]
    bucket_ids: Identifiers | None = None
    collection_ids: Identifiers | None = None
    collection_id: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    inherited_bucket_ids: Unsupported = None
    source_namespace_id: Unsupported = None
    source_filters: Unsupported = None
    field_map: Unsupported = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.type == "bucket" and (not self.bucket_ids or self.collection_ids or self.collection_id):
            raise ValueError(
                "a source of type bucket needs bucket_ids and must not have collection_ids or collection_id"
            )
        if self.type == "collection" and (self.bucket_ids or bool(self.collection_ids) == bool(self.collection_id)):
            raise ValueError(
                "a source of type collection needs either collection_ids or collection_id and must not have bucket_ids"
            )
        return self


class Passthrough(RequestBody):
    """Copies a field of the source to documents. ``target_path`` defaults to the last part of ``source_path``."""

    source_path: Path
    target_path: Path | None = None
    default: Any = None
    required: bool = False


class InputMapping(RequestBody):
    """Maps a field to an input of the extractor, in the long form."""

    input_key: str = Field(min_length=1, max_length=100)
    source_type: Literal["payload"] | None = None
    path: Path
    override: Unsupported = None


class FeatureExtractor(RequestBody):
    """Selects and configures the extractor. ``params`` is an alias for ``parameters``."""

    model_config = example(_EXTRACTOR)

    feature_extractor_name: str = Field(min_length=1, max_length=100)
    version: str = Field(min_length=1, max_length=50)
    input_mappings: dict[str, str] | Annotated[list[InputMapping], Field(max_length=100)] | None = None
    field_passthrough: list[Passthrough] | None = Field(default=None, max_length=500)
    include_all_source_fields: bool = False
    parameters: dict[str, Any] | None = None
    params: dict[str, Any] | None = None

    def mappings(self) -> dict[str, str]:
        """Return the paths of the mapped inputs, from either form."""
        if isinstance(self.input_mappings, list):
            return {mapping.input_key: mapping.path for mapping in self.input_mappings}
        return dict(self.input_mappings or {})


class CollectionBody(RequestBody):
    """Rejects the features of the managed service that go beyond creating documents."""

    features: Unsupported = None
    schedule: Unsupported = None
    taxonomy_applications: Unsupported = None
    cluster_applications: Unsupported = None
    alert_applications: Unsupported = None
    retriever_enrichments: Unsupported = None
    retriever_transform: Unsupported = None
    embedding_task: Unsupported = None


class CreateCollection(CollectionBody):
    """Creates a collection; its input schema is that of its sources."""

    model_config = example({"collection_name": "invoice-docs", "source": _SOURCE, "feature_extractor": _EXTRACTOR})

    collection_name: CollectionName
    source: SourceConfig
    feature_extractor: FeatureExtractor
    input_schema: Unsupported = None
    description: str | None = Field(default=None, max_length=5000)
    enabled: bool = True
    metadata: dict[str, Any] | None = None


class UpdateCollection(CollectionBody):
    """Only the fields that are sent change. The source and the extractor of a collection are fixed."""

    model_config = example({"description": "Invoices of 2026", "enabled": False})

    collection_name: CollectionName | None = None
    description: str | None = Field(default=None, max_length=5000)
    enabled: bool | None = None
    metadata: dict[str, Any] | None = None
    source: Unsupported = None
    input_schema: Unsupported = None
    feature_extractor: Unsupported = None


class ListCollections(ListBody):
    """The body of a list of collections."""

    include_system: bool = Field(default=False, description="Accepted without effect: there are no system collections.")


class Collection(ResponseBody):
    """A collection with the number of its documents."""

    model_config = example(
        {
            "collection_id": "col_06h2k4v9c3f8m1q7r5tw",
            "collection_name": "invoice-docs",
            "feature_extractor": {**_EXTRACTOR, "feature_extractor_id": "passthrough_extractor_v1"},
            "source": _SOURCE,
            "output_schema": {"properties": {"sku": {"type": "string"}}},
            "enabled": True,
            "metadata": {},
            "document_count": 1,
            "created_at": "2026-03-01T09:00:00.000Z",
            "updated_at": "2026-03-01T09:00:00.000Z",
        }
    )

    collection_id: str
    collection_name: str
    description: str | None = None
    feature_extractor: dict[str, Any]
    source: dict[str, Any]
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    enabled: bool
    metadata: dict[str, Any]
    document_count: int
    lifecycle_state: str = "active"
    created_at: Timestamp
    updated_at: Timestamp
    warnings: list[str] = Field(default_factory=list)

    @classmethod
    def of(cls, collection: CollectionDocument, document_count: int, warnings: list[str] | None = None) -> "Collection":
        """Return the response for a stored collection. Fields of the same name are copied."""
        extractor, source = collection["extractor"], collection["source"]
        ids = "bucket_ids" if source["type"] == "bucket" else "collection_ids"
        return cls.model_validate(
            {
                **collection,
                "collection_id": collection["_id"],
                "collection_name": collection["name"],
                "feature_extractor": {
                    **{key: value for key, value in extractor.items() if key not in ("id", "name")},
                    "feature_extractor_id": extractor["id"],
                    "feature_extractor_name": extractor["name"],
                },
                "source": {"type": source["type"], ids: source["bucket_ids"] or source["collection_ids"]},
                "input_schema": collection.get("input_schema") or {"properties": {}},
                "document_count": document_count,
                "warnings": warnings or [],
            }
        )


class CollectionListStats(ResponseBody):
    """Sums over a page of collections."""

    total_documents: int = 0
    avg_documents_per_collection: float = 0.0
    total_feature_extractors: int = 0


class CollectionList(ListResponse):
    """A page of collections; ``stats`` covers the collections of this page."""

    results: list[Collection]
    stats: CollectionListStats

    @classmethod
    def of(cls, results: list[Collection], total: int, pagination: Pagination) -> "CollectionList":
        """Return the response for a page of collections."""
        documents = sum(collection.document_count for collection in results)
        extractors = {collection.feature_extractor["feature_extractor_id"] for collection in results}
        stats = CollectionListStats(
            total_documents=documents,
            avg_documents_per_collection=documents / len(results) if results else 0.0,
            total_feature_extractors=len(extractors),
        )
        return cls(results=results, total_count=total, pagination=pagination, stats=stats)


class CollectionDeleted(ResponseBody):
    """Confirms the deletion. The task completes when the last document has been removed."""

    message: str = "deleted"
    success: bool = True
    collection_id: str
    task_id: str


class TriggerCollection(RequestBody):
    """Selects the objects to run; by default all objects of the collection's sources."""

    model_config = ConfigDict(**example({"dedup_strategy": "skip"}))

    include_buckets: Identifiers | None = None
    include_collections: Identifiers | None = None
    object_ids: list[str] | None = Field(default=None, min_length=1, max_length=50_000)
    source_filters: dict[str, Any] | None = None
    dedup_strategy: Literal["skip", "replace", "force"] = "skip"
    reembed: Unsupported = None


class Triggered(ResponseBody):
    """Names the batch, or the task that creates the batches; then ``batch_id`` is null."""

    model_config = example(
        {
            "task_id": "task_06h2k4v9c3f8m1q7r5ty",
            "collection_id": "col_06h2k4v9c3f8m1q7r5tw",
            "batch_id": "btch_06h2k4v9c3f8m1q7r5tx",
            "source_bucket_ids": ["bkt_06h2k4v9c3f8m1q7r5tw"],
            "object_count": 2,
            "total_tiers": 1,
            "message": "2 objects were submitted",
        }
    )

    task_id: str
    collection_id: str
    batch_id: str | None = None
    source_bucket_ids: list[str] | None = None
    source_collection_ids: list[str] | None = None
    object_count: int | None = None
    batch_ids: list[str] | None = None
    task_ids: list[str] | None = None
    batch_count: int | None = None
    total_tiers: int
    message: str
