"""``/v1/namespaces``."""

from fastapi import APIRouter

from ingest_api.namespaces import create_namespace
from ingest_api.requests import Wiring, Writer
from ingest_api.schemas.common import errors
from ingest_api.schemas.namespaces import CreateNamespace, Namespace

router = APIRouter(prefix="/v1/namespaces", tags=["namespaces"])


@router.post("", summary="Create a namespace", responses=errors(409))
async def create(deps: Wiring, caller: Writer, body: CreateNamespace) -> Namespace:
    return Namespace.of(await create_namespace(deps, caller, body))
