"""Request and response bodies of the namespace endpoints."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from bucketline.db.namespaces import NamespaceDocument
from bucketline_ingest_api.schemas import (
    ListResponse,
    Moment,
    Name,
    Pagination,
    RequestBody,
    ResponseBody,
    Timestamp,
    Unsupported,
    example,
)


def _check_ascii(value: str) -> str:
    """Reject names that are not ASCII, since other characters may be altered in a header."""
    if not value.isascii():
        raise ValueError("a name may only have printable ASCII characters, without surrounding spaces")
    return value


NamespaceName = Annotated[
    Name, Field(min_length=3, max_length=64, description="Unique in the organization."), AfterValidator(_check_ascii)
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
    """Rejects the features of the managed service: models, indexes of its own, budgets, issuers."""

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
    """Creates a namespace; only the name is required."""

    model_config = example({"namespace_name": "demo", "description": "Trying it out"})

    namespace_name: NamespaceName
    namespace_id: str | None = Field(default=None, pattern=r"^ns_[a-z0-9]{6,40}$")
    namespace_type: Literal["standard"] | None = None
    scope: Literal["org"] | None = None
    mode: Literal["managed", "standalone"] = "managed"
    description: str | None = Field(default=None, max_length=2000)
    ttl_seconds: Ttl = None


class UpdateNamespace(NamespaceBody):
    """Only the fields that are sent change."""

    model_config = example({"description": "In use since March"})

    namespace_name: NamespaceName | None = None
    description: str | None = Field(default=None, max_length=2000)
    ttl_seconds: Ttl = None
    expires_at: Moment | None = Field(
        default=None, description="Takes precedence over `ttl_seconds`; null disables expiry."
    )
    pinned: Unsupported = None
    repair_vectors: Unsupported = None


class Namespace(ResponseBody):
    """A namespace with the counts of its contents."""

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
        """Return the response for a stored namespace. Fields of the same name are copied."""
        return cls.model_validate(
            {
                **document,
                "namespace_id": document["_id"],
                "namespace_name": document["name"],
                "namespace_ready": not document.get("deleting", False),
                **(counts or {}),
            }
        )


class NamespaceListStats(ResponseBody):
    """Sums over a page of namespaces."""

    total_documents: int = 0
    total_documents_complete: bool = True
    total_buckets: int = 0
    total_collections: int = 0
    total_objects: int = 0


class NamespaceList(ListResponse):
    """A page of namespaces; ``stats`` covers the namespaces of this page."""

    results: list[Namespace]
    stats: NamespaceListStats

    @classmethod
    def of(cls, results: list[Namespace], total: int, pagination: Pagination) -> "NamespaceList":
        """Return the response for a page of namespaces."""
        stats = NamespaceListStats(
            total_documents=sum(namespace.document_count for namespace in results),
            total_buckets=sum(namespace.bucket_count for namespace in results),
            total_collections=sum(namespace.collection_count for namespace in results),
            total_objects=sum(namespace.object_count for namespace in results),
        )
        return cls(results=results, total_count=total, pagination=pagination, stats=stats)


class NamespaceStats(ResponseBody):
    """Counts the contents of a namespace."""

    namespace_id: str
    document_count: int
    document_count_complete: bool = True
    bucket_count: int
    collection_count: int
    object_count: int


class NamespaceDeletion(ResponseBody):
    """Names the task that deletes the namespace and everything in it."""

    task_id: str
    task_type: str = "api_namespaces_delete"
    status: str
    namespace_id: str
    namespace_name: str
