"""``/v1/health``: no key needed for the light ones."""

from typing import Any

from fastapi import APIRouter

from ingest_api.requests import Reader, Wiring
from ingest_api.schemas.common import errors

router = APIRouter(prefix="/v1/health", tags=["health"])


@router.get("", summary="Is the API up?")
@router.get("/liveness", summary="Is the API up?", include_in_schema=False)
async def health() -> dict[str, str]:
    return {"status": "OK"}


@router.get("/deep", summary="Are its dependencies up?", responses=errors())
async def deep(deps: Wiring, _: Reader) -> dict[str, Any]:
    checks = await deps.health.ready()
    good = all(checks.values())
    data = {
        "cache": True,
        "metadata": checks.get("mongodb", False),
        "vector_store": True,
        "object_storage": checks.get("s3", False),
        "task_queue": checks.get("kafka", False),
        "inference": True,
    }
    failed = [{"component": name} for name, passed in checks.items() if not passed]
    return {"status": "OK" if good else "DEGRADED", "data": data, "errors": failed, "meta": {}}
