"""``/v1/health``: the light checks need no API key."""

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import Field

from bucketline_ingest_api.dependencies import ContainerDep, ReadPrincipal
from bucketline_ingest_api.schemas import ResponseBody, errors, example

router = APIRouter(prefix="/v1/health", tags=["health"])

_COMPONENTS = {"mongodb": "metadata", "s3": "object_storage", "kafka": "task_queue", "consumers": "task_queue"}
"""The component of the contract that each of our checks belongs to."""
_ABSENT = ("cache", "inference", "vector_store")
"""Components of the managed service that this deployment does not have. The official client requires them, so they are
reported as false."""
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
    """The API is up."""

    model_config = example({"status": "OK"})

    status: Literal["OK"] = "OK"


class Deep(ResponseBody):
    """``meta.components`` has the result of each check; ``errors`` names the components that are unavailable.

    Components in ``meta.not_deployed`` are not part of this deployment: false in ``data``, and no error.
    """

    model_config = example(_EXAMPLE)

    status: Literal["OK", "DEGRADED"]
    data: dict[str, bool]
    errors: dict[str, str] | None = None
    meta: dict[str, Any] = Field(default_factory=dict)


@router.get("", summary="Check that the API is up")
async def get_health() -> Up:
    """Return OK. Dependencies are not checked."""
    return Up()


@router.get("/liveness", summary="Check that the API is up")
async def get_liveness() -> Up:
    """Return OK, as `/v1/health` does."""
    return Up()


@router.get("/deep", summary="Check the dependencies", responses=errors())
async def get_deep_health(container: ContainerDep, _: ReadPrincipal) -> Deep:
    """Check MongoDB, S3, Kafka and the consumers."""
    checks = await container.health.ready()
    unavailable = {_COMPONENTS.get(name, "task_queue") for name, good in checks.items() if not good}
    failed = dict.fromkeys(sorted(unavailable), "does not answer")
    data = {component: component not in failed for component in dict.fromkeys(_COMPONENTS.values())} | dict.fromkeys(
        _ABSENT, False
    )
    meta = {"components": checks, "not_deployed": list(_ABSENT)}
    return Deep(status="DEGRADED" if failed else "OK", data=data, errors=failed or None, meta=meta)
