"""``/v1/health``: no key needed for the light ones."""

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import Field

from ingest_api.requests import Reader, Wiring
from ingest_api.schemas.common import Answer, errors, example

router = APIRouter(prefix="/v1/health", tags=["health"])

_ON = {
    "cache": True,
    "metadata": True,
    "vector_store": True,
    "object_storage": True,
    "task_queue": True,
    "inference": True,
}
_PARTS = {"mongodb": "metadata", "s3": "object_storage", "kafka": "task_queue", "consumers": "task_queue"}
"""Which of the contract's parts each of our checks is about. We have no cache, vector store or model server."""


class Up(Answer):
    model_config = example({"status": "OK"})

    status: Literal["OK"] = "OK"


class Deep(Answer):
    """``errors`` names what is away, by part."""

    model_config = example({"status": "OK", "data": _ON, "errors": None, "meta": {}})

    status: Literal["OK", "DEGRADED"]
    data: dict[str, bool]
    errors: dict[str, str] | None = None
    meta: dict[str, Any] = Field(default_factory=dict)


@router.get("", summary="Is the API up?")
@router.get("/liveness", summary="Is the API up?", operation_id="liveness")
async def health() -> Up:
    return Up()


@router.get("/deep", summary="Are its dependencies up?", responses=errors())
async def deep(deps: Wiring, _: Reader) -> Deep:
    checks = await deps.health.ready()
    parts = {_PARTS.get(name, "task_queue") for name, good in checks.items() if not good}
    failed = dict.fromkeys(sorted(parts), "does not answer")
    data = {part: part not in failed for part in _ON}
    return Deep(status="DEGRADED" if failed else "OK", data=data, errors=failed or None)
