"""``/v1/health``: no key needed for the light ones."""

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import Field

from bucketline_ingest_api.dependencies import ContainerDep, ReadPrincipal
from bucketline_ingest_api.schemas import ResponseBody, errors, example

router = APIRouter(prefix="/v1/health", tags=["health"])

_PARTS = {"mongodb": "metadata", "s3": "object_storage", "kafka": "task_queue", "consumers": "task_queue"}
"""Which of the contract's parts each of our checks is about."""
_ABSENT = ("cache", "inference", "vector_store")
"""Parts of the managed service that this deployment does not have. The official client refuses an answer without them,
so they are there, as false: nothing of them can be reached."""
_EXAMPLE = {
    "status": "OK",
    "data": {"metadata": True, "object_storage": True, "task_queue": True, **dict.fromkeys(_ABSENT, False)},
    "errors": None,
    "meta": {
        "components": {"mongodb": True, "s3": True, "kafka": True, "consumers": True},
        "not_deployed": list(_ABSENT),
    },
}


class Up(ResponseBody):
    model_config = example({"status": "OK"})

    status: Literal["OK"] = "OK"


class Deep(ResponseBody):
    """``meta.components`` are the components that exist; ``errors`` names what is away, by part.

    Parts listed in ``meta.not_deployed`` are not part of this deployment: false in ``data``, and no error.
    """

    model_config = example(_EXAMPLE)

    status: Literal["OK", "DEGRADED"]
    data: dict[str, bool]
    errors: dict[str, str] | None = None
    meta: dict[str, Any] = Field(default_factory=dict)


@router.get("", summary="Is the API up?")
@router.get("/liveness", summary="Is the API up?", operation_id="liveness")
async def health() -> Up:
    return Up()


@router.get("/deep", summary="Are its dependencies up?", responses=errors())
async def deep(deps: ContainerDep, _: ReadPrincipal) -> Deep:
    checks = await deps.health.ready()
    away = {_PARTS.get(name, "task_queue") for name, good in checks.items() if not good}
    failed = dict.fromkeys(sorted(away), "does not answer")
    data = {part: part not in failed for part in dict.fromkeys(_PARTS.values())} | dict.fromkeys(_ABSENT, False)
    meta = {"components": checks, "not_deployed": list(_ABSENT)}
    return Deep(status="DEGRADED" if failed else "OK", data=data, errors=failed or None, meta=meta)
