"""Lists of collections."""

from bucketline.db.collections import CollectionDocument
from bucketline.domain.pagination import COLLECTIONS
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.pagination import ListSpec, Page, field_mapper, list_rows
from bucketline_ingest_api.schemas import ListBody, ListQuery

KIND = ListSpec(
    bounds=COLLECTIONS,
    field_path=field_mapper(
        {
            "collection_id": "_id",
            "collection_name": "name",
            "description": "description",
            "source": "source",
            "enabled": "enabled",
            "metadata": "metadata",
            "created_at": "created_at",
            "updated_at": "updated_at",
        },
        under="unknown",
    ),
    searched=("_id", "name", "description"),
    exact=frozenset({"collection_id"}),
)


async def list_collections(
    deps: Container, namespace_id: str, asked: ListQuery, body: ListBody | None
) -> Page[CollectionDocument]:
    """Collections of the namespace, newest first."""
    scope = {"namespace_id": namespace_id, "deleting": {"$ne": True}}
    return await list_rows(deps.collections.collection, scope, KIND, asked, body)
