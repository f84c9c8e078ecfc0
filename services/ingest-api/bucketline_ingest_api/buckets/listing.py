"""Lists of buckets."""

from bucketline.db.buckets import BucketDocument
from bucketline.domain.paging import BUCKETS
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.pagination import ListSpec, Page, field_mapper, list_rows
from bucketline_ingest_api.schemas import ListBody, ListQuery

KIND = ListSpec(
    bounds=BUCKETS,
    field_path=field_mapper(
        {
            "bucket_id": "_id",
            "bucket_name": "name",
            "description": "description",
            "bucket_schema": "schema",
            "unique_key": "unique_key",
            "metadata": "metadata",
            "storage_class": "storage_class",
            "is_locked": "is_locked",
            "created_at": "created_at",
            "updated_at": "updated_at",
        },
        under="unknown",
    ),
    searched=("_id", "name", "description"),
    exact=frozenset({"bucket_id"}),
)


async def list_buckets(
    deps: Container, namespace_id: str, asked: ListQuery, body: ListBody | None
) -> Page[BucketDocument]:
    """Buckets of the namespace, newest first, also those that are being deleted."""
    return await list_rows(deps.buckets.collection, {"namespace_id": namespace_id}, KIND, asked, body)
