"""Bodies of the namespace routes."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from bucketline.db.namespaces import NamespaceDocument
from bucketline_ingest_api.schemas import (
    Moment,
    Name,
    Pagination,
    RequestBody,
    ResponseBody,
    Timestamp,
    Unsupported,
    example,
)


def _in_a_header(value: str) -> str:
    """A name is sent in a header too, where nothing but ASCII arrives as it was."""
    if not value.isascii():
        raise ValueError("a name has printable ASCII characters only and no blanks around it")
    return value


NamespaceName = Annotated[
    Name, Field(min_length=3, max_length=64, description="Unique in the organisation."), AfterValidator(_in_a_header)
]
Ttl = Annotated[int | None, Field(ge=60, le=10 * 366 * 24 * 3600)]

_EXAMPLE = {
    "object": "namespace",
    "namespace_id": "ns_06h2k4v9c3f8m1q7r5tw",
    "namespace_name": "demo",
    "namespace_type": "standard",
    "scope": "org",
    "mode": "managed",
    "description": "Trying it out",
    "document_count": 17,
    "document_count_complete": True,
    "bucket_count": 1,
    "collection_count": 1,
    "object_count": 17,
    "namespace_ready": True,
    "created_at": "2026-03-01T09:00:00.000Z",
    "updated_at": "2026-03-01T09:00:00.000Z",
}


class NamespaceBody(RequestBody):
    """What a namespace of the managed service has beyond a name: models, indexes of its own, budgets, issuers."""

    features: Unsupported = None
    feature_extractors: Unsupported = None
    vector_configs: Unsupported = None
    payload_indexes: Unsupported = None
    auto_create_indexes: Unsupported = None
    adaptive_indexing: Unsupported = None
    infrastructure: Unsupported = None
    trusted_issuers: Unsupported = None
    tiering: Unsupported = None
    spend_budget: Unsupported = None
    cost_cap_override: Unsupported = None


class CreateNamespace(NamespaceBody):
    """Only the name is required."""

    model_config = example({"namespace_name": "demo", "description": "Trying it out"})

    namespace_name: NamespaceName
    namespace_id: str | None = Field(default=None, pattern=r"^ns_[a-z0-9]{6,40}$")
    namespace_type: Literal["standard"] | None = None
    scope: Literal["org"] | None = None
    mode: Literal["managed", "standalone"] = "managed"
    description: str | None = Field(default=None, max_length=2000)
    ttl_seconds: Ttl = None


class ChangeNamespace(NamespaceBody):
    """Only what is sent changes."""

    model_config = example({"description": "In use since March"})

    namespace_name: NamespaceName | None = None
    description: str | None = Field(default=None, max_length=2000)
    ttl_seconds: Ttl = None
    expires_at: Moment | None = Field(default=None, description="Wins over `ttl_seconds`; null: never.")
    pinned: Unsupported = None
    repair_vectors: Unsupported = None


class Namespace(ResponseBody):
    model_config = example(_EXAMPLE)

    object: Literal["namespace"] = "namespace"
    namespace_id: str
    namespace_name: str
    namespace_type: str = "standard"
    scope: str = "org"
    mode: str = "managed"
    description: str | None = None
    document_count: int = 0
    document_count_complete: bool = True
    bucket_count: int = 0
    collection_count: int = 0
    object_count: int = 0
    namespace_ready: bool = True
    expires_at: Timestamp | None = None
    created_at: Timestamp
    updated_at: Timestamp

    @classmethod
    def of(cls, document: NamespaceDocument, counts: dict[str, int] | None = None) -> "Namespace":
        return cls(
            namespace_id=document["_id"],
            namespace_name=document["name"],
            mode=document["mode"],
            description=document["description"],
            created_at=document["created_at"],
            updated_at=document["updated_at"],
            expires_at=document.get("expires_at"),
            namespace_ready=not document.get("deleting", False),
            **(counts or {}),
        )


class NamespaceListStats(ResponseBody):
    total_documents: int = 0
    total_documents_complete: bool = True
    total_buckets: int = 0
    total_collections: int = 0
    total_objects: int = 0


class NamespaceList(ResponseBody):
    """``stats`` is about the namespaces of this page."""

    model_config = example(
        {
            "results": [_EXAMPLE],
            "total_count": 1,
            "pagination": {"page": 1, "page_size": 10, "next_page": None, "previous_page": None, "next_cursor": None},
            "stats": {
                "total_documents": 17,
                "total_documents_complete": True,
                "total_buckets": 1,
                "total_collections": 1,
                "total_objects": 17,
            },
            "warnings": [],
        }
    )

    results: list[Namespace]
    total_count: int
    pagination: Pagination
    stats: NamespaceListStats
    warnings: list[dict[str, Any]] = Field(default_factory=list)

    @classmethod
    def of(cls, results: list[Namespace], total: int, pagination: Pagination) -> "NamespaceList":
        stats = NamespaceListStats(
            total_documents=sum(namespace.document_count for namespace in results),
            total_buckets=sum(namespace.bucket_count for namespace in results),
            total_collections=sum(namespace.collection_count for namespace in results),
            total_objects=sum(namespace.object_count for namespace in results),
        )
        return cls(results=results, total_count=total, pagination=pagination, stats=stats)


class NamespaceStats(ResponseBody):
    model_config = example(
        {
            "namespace_id": "ns_06h2k4v9c3f8m1q7r5tw",
            "document_count": 17,
            "document_count_complete": True,
            "bucket_count": 1,
            "collection_count": 1,
            "object_count": 17,
        }
    )

    namespace_id: str
    document_count: int
    document_count_complete: bool = True
    bucket_count: int
    collection_count: int
    object_count: int


class NamespaceDeletion(ResponseBody):
    """The task that deletes the namespace and everything in it."""

    model_config = example(
        {
            "task_id": "task_06h2k4v9c3f8m1q7r5ty",
            "status": "PENDING",
            "namespace_id": "ns_06h2k4v9c3f8m1q7r5tw",
            "namespace_name": "demo",
        }
    )

    task_id: str
    task_type: str = "api_namespaces_delete"
    status: str
    namespace_id: str
    namespace_name: str
