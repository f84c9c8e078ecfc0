"""The routes, one module a noun."""

from fastapi import APIRouter

from ingest_api.routes import (
    batches,
    buckets,
    collections,
    documents,
    health,
    keys,
    namespaces,
    objects,
    tasks,
    uploads,
)

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
