"""Bodies of the namespace routes."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from bucketline.storage.namespaces import NamespaceDocument
from ingest_api.schemas.common import Answer, Pagination, Request, Timestamp, example

Name = Field(min_length=3, max_length=64, description="Unique in the organisation.")


class CreateNamespace(Request):
    """Keys that only a managed service needs are kept and given back."""

    model_config = ConfigDict(extra="allow", **example({"namespace_name": "demo", "description": "Trying it out"}))

    namespace_name: str = Name
    namespace_id: str | None = Field(default=None, pattern=r"^ns_[a-z0-9]{6,40}$")
    mode: Literal["managed", "standalone"] = "managed"
    description: str | None = Field(default=None, max_length=2000)
    ttl_seconds: int | None = Field(default=None, ge=60)


class Namespace(Answer):
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
            **(counts or {}),
        )


class NamespaceList(Answer):
    results: list[Namespace]
    total_count: int
    pagination: Pagination
    warnings: list[dict[str, Any]] = Field(default_factory=list)
