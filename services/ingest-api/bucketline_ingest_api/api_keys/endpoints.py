"""Endpoints of ``/v1/organizations/users/{user_email}/api-keys`` and ``/v1/me``."""

from typing import Annotated

from fastapi import APIRouter, Query

from bucketline_ingest_api.api_keys import service
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
from bucketline_ingest_api.dependencies import AdminPrincipal, CallerDep, ContainerDep
from bucketline_ingest_api.schemas import errors

router = APIRouter(prefix="/v1", tags=["keys"])

USER = "/organizations/users/{user_email}/api-keys"
Revoked = Annotated[bool, Query(description="Include revoked keys.")]
Sessions = Annotated[bool, Query(description="Accepted without effect: there are no session keys.")]
Force = Annotated[bool, Query(description="Accepted without effect: a key can always be revoked.")]


@router.get("/me", summary="Who am I?", responses=errors())
async def get_me(container: ContainerDep, caller: CallerDep) -> Me:
    """Show the organization, the key and the rate limit of the caller."""
    limit = caller.rate_limit or container.settings.rate_limit
    return Me(
        organization_id=caller.organization_id,
        user_email=caller.user_email,
        key=MeKey(name=caller.key_name, permissions=sorted(caller.permissions), expires_at=caller.expires_at),
        rate_limits={"requests": limit} if limit else None,
    )


@router.post(USER, summary="Create a key", responses=errors(409))
async def create_key(container: ContainerDep, caller: AdminPrincipal, user_email: str, body: CreateKey) -> IssuedKey:
    """Show the plain text of the new key; it cannot be shown again."""
    return IssuedKey.issued(await service.create_key(container, caller, user_email, body), container.clock.now())


@router.get(USER, summary="List a user's keys", responses=errors())
async def list_keys(
    container: ContainerDep,
    caller: AdminPrincipal,
    user_email: str,
    include_revoked: Revoked = False,
    include_session_keys: Sessions = False,  # noqa: ARG001 - has no effect
) -> KeyList:
    """List the keys without their secrets."""
    user = service.require_key_admin(caller, user_email)
    keys = await container.keyring.of_user(caller.organization_id, user, revoked=include_revoked)
    return KeyList(results=[Key.of(key, container.clock.now()) for key in keys], total=len(keys))


@router.patch(USER + "/{key_name}", summary="Change a key", responses=errors(409))
async def update_key(
    container: ContainerDep, caller: AdminPrincipal, user_email: str, key_name: str, body: UpdateKey
) -> Key:
    """Change only the fields that are sent."""
    return Key.of(await service.update_key(container, caller, user_email, key_name, body), container.clock.now())


@router.delete(USER + "/{key_name}", summary="Revoke a key", responses=errors())
async def revoke_key(
    container: ContainerDep,
    caller: AdminPrincipal,
    user_email: str,
    key_name: str,
    force: Force = False,  # noqa: ARG001 - has no effect
) -> KeyRevoked:
    """End the validity of the key for good."""
    await service.revoke_key(container, caller, user_email, key_name)
    return KeyRevoked()


@router.post(USER + "/{key_name}/rotate", summary="Give a key a new secret", responses=errors())
async def rotate_key(container: ContainerDep, caller: AdminPrincipal, user_email: str, key_name: str) -> IssuedKey:
    """Show the plain text of the new secret; the old one stays valid for the grace period."""
    return IssuedKey.issued(await service.rotate_key(container, caller, user_email, key_name), container.clock.now())
