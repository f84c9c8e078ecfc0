"""FastAPI dependencies: the container, the caller with a permission, the namespace and the bucket of a request."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from bucketline.db.api_keys import Permission
from bucketline.db.buckets import BucketDocument
from bucketline.db.namespaces import NamespaceDocument
from bucketline.errors import NotFound
from bucketline_ingest_api.auth import Principal, require
from bucketline_ingest_api.container import Container

api_key_scheme = HTTPBearer(
    auto_error=False, scheme_name="ApiKey", description="An API key, sent as `Authorization: Bearer <key>`."
)
namespace_scheme = APIKeyHeader(
    name="X-Namespace", auto_error=False, scheme_name="Namespace", description="The namespace, by id or name."
)

ApiKey = Annotated[HTTPAuthorizationCredentials | None, Security(api_key_scheme)]
NamespaceHeader = Annotated[str | None, Security(namespace_scheme)]
NamespaceQuery = Annotated[str | None, Query(alias="namespace", description="Alternative to the X-Namespace header.")]


async def get_container(request: Request) -> Container:
    """Return the container that the lifespan of the application has built."""
    container: Container = request.app.state.container
    return container


async def get_caller(request: Request, _: ApiKey) -> Principal:
    """Return the caller that the edge middleware has authenticated. The scheme is for the OpenAPI document only."""
    caller: Principal = request.state.caller
    return caller


async def get_namespace_identifier(header: NamespaceHeader, query: NamespaceQuery = None) -> str | None:
    """Return the id or name of the namespace that the request names, if any."""
    return header or query


NamespaceIdentifier = Annotated[str | None, Depends(get_namespace_identifier)]
ContainerDep = Annotated[Container, Depends(get_container)]
CallerDep = Annotated[Principal, Depends(get_caller)]


@dataclass(frozen=True)
class NamespaceScope:
    """A caller in a namespace."""

    caller: Principal
    namespace: NamespaceDocument

    @property
    def namespace_id(self) -> str:
        """The id of the namespace."""
        return self.namespace["_id"]


@dataclass(frozen=True)
class BucketScope(NamespaceScope):
    """A caller in a bucket of a namespace."""

    bucket: BucketDocument

    @property
    def bucket_id(self) -> str:
        """The id of the bucket."""
        return self.bucket["_id"]


async def resolve_namespace(
    container: Container, caller: Principal, permission: Permission, identifier: str | None
) -> NamespaceScope:
    """Return the caller in the namespace; 403 without the permission, 404 if the namespace is not accessible."""
    require(caller, permission)
    return NamespaceScope(caller, await container.auth.namespace(caller, identifier))


async def resolve_bucket(container: Container, scope: NamespaceScope, identifier: str) -> BucketScope:
    """Return the caller in the bucket; 404 if the namespace has no such bucket."""
    bucket = await container.bucket(scope.namespace_id, identifier)
    if bucket is None:
        raise NotFound.of("bucket", identifier)
    return BucketScope(scope.caller, scope.namespace, bucket)


def require_permission(permission: Permission) -> Callable[..., Awaitable[Principal]]:
    """Return a dependency: the caller with this permission, outside of any namespace."""

    async def permitted_caller(caller: CallerDep) -> Principal:
        require(caller, permission)
        return caller

    return permitted_caller


def require_namespace(permission: Permission) -> Callable[..., Awaitable[NamespaceScope]]:
    """Return a dependency: the caller with this permission in the namespace of the request."""

    async def namespace_scope(
        container: ContainerDep, caller: CallerDep, identifier: NamespaceIdentifier
    ) -> NamespaceScope:
        return await resolve_namespace(container, caller, permission, identifier)

    return namespace_scope


def require_bucket(permission: Permission) -> Callable[..., Awaitable[BucketScope]]:
    """Return a dependency: the caller with this permission in the bucket that the path names by id or name."""

    async def bucket_scope(
        container: ContainerDep,
        scope: Annotated[NamespaceScope, Depends(require_namespace(permission))],
        bucket_identifier: str,
    ) -> BucketScope:
        return await resolve_bucket(container, scope, bucket_identifier)

    return bucket_scope


ReadPrincipal = Annotated[Principal, Depends(require_permission("READ"))]
WritePrincipal = Annotated[Principal, Depends(require_permission("WRITE"))]
DeletePrincipal = Annotated[Principal, Depends(require_permission("DELETE"))]
AdminPrincipal = Annotated[Principal, Depends(require_permission("ADMIN"))]
NamespaceRead = Annotated[NamespaceScope, Depends(require_namespace("READ"))]
NamespaceWrite = Annotated[NamespaceScope, Depends(require_namespace("WRITE"))]
NamespaceDelete = Annotated[NamespaceScope, Depends(require_namespace("DELETE"))]
BucketRead = Annotated[BucketScope, Depends(require_bucket("READ"))]
BucketWrite = Annotated[BucketScope, Depends(require_bucket("WRITE"))]
BucketDelete = Annotated[BucketScope, Depends(require_bucket("DELETE"))]
