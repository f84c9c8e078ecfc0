"""The routes, one module a noun."""

from fastapi import APIRouter

from bucketline_ingest_api import health
from bucketline_ingest_api.api_keys import endpoints as keys
from bucketline_ingest_api.batches import endpoints as batches
from bucketline_ingest_api.buckets import endpoints as buckets
from bucketline_ingest_api.collections import endpoints as collections
from bucketline_ingest_api.documents import endpoints as documents
from bucketline_ingest_api.namespaces import endpoints as namespaces
from bucketline_ingest_api.objects import endpoints as objects
from bucketline_ingest_api.tasks import endpoints as tasks
from bucketline_ingest_api.uploads import endpoints as uploads

ROUTERS: tuple[APIRouter, ...] = (
    health.router,
    namespaces.router,
    buckets.router,
    objects.router,
    batches.router,
    collections.router,
    documents.router,
    tasks.router,
    uploads.router,
    keys.router,
)
