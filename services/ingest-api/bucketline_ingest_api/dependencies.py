"""What a route asks of a request: the caller with a permission, the namespace, the bucket."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Query, Request

from bucketline.db.api_keys import Permission
from bucketline.db.buckets import BucketDocument
from bucketline.db.namespaces import NamespaceDocument
from bucketline.errors import NotFound
from bucketline_ingest_api.auth import require
from bucketline_ingest_api.container import Deps
from bucketline_ingest_api.principal import Caller

NamespaceHeader = Annotated[str | None, Header(alias="X-Namespace", description="Namespace, by id or name.")]
NamespaceQuery = Annotated[str | None, Query(alias="namespace", description="In place of the X-Namespace header.")]


def deps_of(request: Request) -> Deps:
    deps: Deps = request.app.state.deps
    return deps


def caller_of(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


@dataclass(frozen=True)
class Scope:
    """A caller in a namespace."""

    caller: Caller
    namespace: NamespaceDocument

    @property
    def namespace_id(self) -> str:
        return self.namespace["_id"]


@dataclass(frozen=True)
class BucketScope(Scope):
    """A caller in a bucket of a namespace."""

    bucket: BucketDocument

    @property
    def bucket_id(self) -> str:
        return self.bucket["_id"]


def scoped(permission: Permission):  # type: ignore[no-untyped-def]  # FastAPI reads the inner signature
    """A dependency: the caller, with this permission, in the request's namespace."""

    async def scope(request: Request, namespace: NamespaceHeader = None, fallback: NamespaceQuery = None) -> Scope:
        return await request_scope(request, permission, namespace or fallback)

    return scope


def bucket_scoped(permission: Permission):  # type: ignore[no-untyped-def]  # FastAPI reads the inner signature
    """A dependency: the same, and the bucket that the path names by id or name."""

    async def scope(
        request: Request, bucket_identifier: str, namespace: NamespaceHeader = None, fallback: NamespaceQuery = None
    ) -> BucketScope:
        return await request_bucket(request, permission, namespace or fallback, bucket_identifier)

    return scope


async def request_scope(request: Request, permission: Permission, identifier: str | None) -> Scope:
    caller = caller_of(request)
    require(caller, permission)
    return Scope(caller, await deps_of(request).auth.namespace(caller, identifier))


async def request_bucket(
    request: Request, permission: Permission, namespace: str | None, identifier: str
) -> BucketScope:
    scope = await request_scope(request, permission, namespace)
    bucket = await deps_of(request).bucket(scope.namespace_id, identifier)
    if bucket is None:
        raise NotFound.of("bucket", identifier)
    return BucketScope(scope.caller, scope.namespace, bucket)


def permitted(permission: Permission):  # type: ignore[no-untyped-def]  # FastAPI reads the inner signature
    """A dependency: the caller, with this permission, outside of any namespace."""

    async def caller(request: Request) -> Caller:
        found = caller_of(request)
        require(found, permission)
        return found

    return caller


Reading = Annotated[Scope, Depends(scoped("READ"))]
Writing = Annotated[Scope, Depends(scoped("WRITE"))]
Deleting = Annotated[Scope, Depends(scoped("DELETE"))]
ReadingBucket = Annotated[BucketScope, Depends(bucket_scoped("READ"))]
WritingBucket = Annotated[BucketScope, Depends(bucket_scoped("WRITE"))]
DeletingBucket = Annotated[BucketScope, Depends(bucket_scoped("DELETE"))]
Reader = Annotated[Caller, Depends(permitted("READ"))]
Writer = Annotated[Caller, Depends(permitted("WRITE"))]
Deleter = Annotated[Caller, Depends(permitted("DELETE"))]
Admin = Annotated[Caller, Depends(permitted("ADMIN"))]
Wiring = Annotated[Deps, Depends(deps_of)]
