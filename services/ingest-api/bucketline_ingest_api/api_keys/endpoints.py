"""``/v1/organizations/users/{email}/api-keys`` and ``/v1/me``."""

from typing import Annotated

from fastapi import APIRouter, Query

from bucketline_ingest_api.api_keys.schemas import (
    CreateKey,
    IssuedKey,
    Key,
    KeyList,
    KeyRevoked,
    Me,
    MeKey,
    UpdateKey,
)
from bucketline_ingest_api.api_keys.service import change_key, create_key, require_key_admin, revoke_key, rotate_key
from bucketline_ingest_api.dependencies import AdminPrincipal, CallerDep, ContainerDep
from bucketline_ingest_api.schemas import errors

router = APIRouter(prefix="/v1", tags=["keys"])

USER = "/organizations/users/{user_email}/api-keys"
Revoked = Annotated[bool, Query(description="Include revoked keys.")]
Sessions = Annotated[bool, Query(description="Accepted, no effect: there are no session keys here.")]
Force = Annotated[bool, Query(description="Accepted, no effect: a key is revoked in any case.")]


@router.get("/me", summary="Who am I?", responses=errors())
async def me(deps: ContainerDep, caller: CallerDep) -> Me:
    limit = caller.rate_limit or deps.settings.rate_limit
    return Me(
        organization_id=caller.organization_id,
        user_email=caller.user_email,
        key=MeKey(name=caller.key_name, permissions=sorted(caller.permissions), expires_at=caller.expires_at),
        rate_limits={"requests": limit} if limit else None,
    )


@router.post(USER, summary="Make a key", responses=errors(409))
async def create(deps: ContainerDep, caller: AdminPrincipal, user_email: str, body: CreateKey) -> IssuedKey:
    return IssuedKey.issued(await create_key(deps, caller, user_email, body), deps.clock.now())


@router.get(USER, summary="List a user's keys", responses=errors())
async def listing(
    deps: ContainerDep,
    caller: AdminPrincipal,
    user_email: str,
    include_revoked: Revoked = False,
    include_session_keys: Sessions = False,  # noqa: ARG001 - there are none
) -> KeyList:
    user = require_key_admin(caller, user_email)
    keys = await deps.keyring.of_user(caller.organization_id, user, revoked=include_revoked)
    return KeyList(results=[Key.of(key, deps.clock.now()) for key in keys], total=len(keys))


@router.patch(USER + "/{key_name}", summary="Change a key", responses=errors(409))
async def change(deps: ContainerDep, caller: AdminPrincipal, user_email: str, key_name: str, body: UpdateKey) -> Key:
    return Key.of(await change_key(deps, caller, user_email, key_name, body), deps.clock.now())


@router.delete(USER + "/{key_name}", summary="Revoke a key", responses=errors())
async def revoke(
    deps: ContainerDep,
    caller: AdminPrincipal,
    user_email: str,
    key_name: str,
    force: Force = False,  # noqa: ARG001 - nothing stands in the way
) -> KeyRevoked:
    await revoke_key(deps, caller, user_email, key_name)
    return KeyRevoked()


@router.post(USER + "/{key_name}/rotate", summary="Give a key a new secret", responses=errors())
async def rotate(deps: ContainerDep, caller: AdminPrincipal, user_email: str, key_name: str) -> IssuedKey:
    return IssuedKey.issued(await rotate_key(deps, caller, user_email, key_name), deps.clock.now())
