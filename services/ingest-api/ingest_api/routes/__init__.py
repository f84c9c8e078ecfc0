"""The routes, one module a noun."""

from fastapi import APIRouter

from ingest_api.routes import health, namespaces

ROUTERS: tuple[APIRouter, ...] = (health.router, namespaces.router)
