"""What a route asks of a request: the caller with a permission, the namespace, the bucket."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Query, Request

from bucketline.db.api_keys import Permission
from bucketline.db.buckets import BucketDocument
from bucketline.db.namespaces import NamespaceDocument
from bucketline.errors import NotFound
from bucketline_ingest_api.auth import require
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.principal import Principal

NamespaceHeader = Annotated[str | None, Header(alias="X-Namespace", description="Namespace, by id or name.")]
NamespaceQuery = Annotated[str | None, Query(alias="namespace", description="In place of the X-Namespace header.")]


def get_container(request: Request) -> Container:
    deps: Container = request.app.state.deps
    return deps


def get_principal(request: Request) -> Principal:
    caller: Principal = request.state.caller
    return caller


@dataclass(frozen=True)
class NamespaceScope:
    """A caller in a namespace."""

    caller: Principal
    namespace: NamespaceDocument

    @property
    def namespace_id(self) -> str:
        return self.namespace["_id"]


@dataclass(frozen=True)
class BucketScope(NamespaceScope):
    """A caller in a bucket of a namespace."""

    bucket: BucketDocument

    @property
    def bucket_id(self) -> str:
        return self.bucket["_id"]


def require_namespace(permission: Permission):  # type: ignore[no-untyped-def]  # FastAPI reads the inner signature
    """A dependency: the caller, with this permission, in the request's namespace."""

    async def scope(
        request: Request, namespace: NamespaceHeader = None, fallback: NamespaceQuery = None
    ) -> NamespaceScope:
        return await request_scope(request, permission, namespace or fallback)

    return scope


def require_bucket(permission: Permission):  # type: ignore[no-untyped-def]  # FastAPI reads the inner signature
    """A dependency: the same, and the bucket that the path names by id or name."""

    async def scope(
        request: Request, bucket_identifier: str, namespace: NamespaceHeader = None, fallback: NamespaceQuery = None
    ) -> BucketScope:
        return await request_bucket(request, permission, namespace or fallback, bucket_identifier)

    return scope


async def request_scope(request: Request, permission: Permission, identifier: str | None) -> NamespaceScope:
    caller = get_principal(request)
    require(caller, permission)
    return NamespaceScope(caller, await get_container(request).auth.namespace(caller, identifier))


async def request_bucket(
    request: Request, permission: Permission, namespace: str | None, identifier: str
) -> BucketScope:
    scope = await request_scope(request, permission, namespace)
    bucket = await get_container(request).bucket(scope.namespace_id, identifier)
    if bucket is None:
        raise NotFound.of("bucket", identifier)
    return BucketScope(scope.caller, scope.namespace, bucket)


def require_permission(permission: Permission):  # type: ignore[no-untyped-def]  # FastAPI reads the inner signature
    """A dependency: the caller, with this permission, outside of any namespace."""

    async def caller(request: Request) -> Principal:
        found = get_principal(request)
        require(found, permission)
        return found

    return caller


NamespaceRead = Annotated[NamespaceScope, Depends(require_namespace("READ"))]
NamespaceWrite = Annotated[NamespaceScope, Depends(require_namespace("WRITE"))]
NamespaceDelete = Annotated[NamespaceScope, Depends(require_namespace("DELETE"))]
BucketRead = Annotated[BucketScope, Depends(require_bucket("READ"))]
BucketWrite = Annotated[BucketScope, Depends(require_bucket("WRITE"))]
BucketDelete = Annotated[BucketScope, Depends(require_bucket("DELETE"))]
ReadPrincipal = Annotated[Principal, Depends(require_permission("READ"))]
WritePrincipal = Annotated[Principal, Depends(require_permission("WRITE"))]
DeletePrincipal = Annotated[Principal, Depends(require_permission("DELETE"))]
AdminPrincipal = Annotated[Principal, Depends(require_permission("ADMIN"))]
ContainerDep = Annotated[Container, Depends(get_container)]
