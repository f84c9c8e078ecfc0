"""Endpoints of ``/v1/organizations/users/{user_email}/api-keys`` and ``/v1/me``."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from bucketline.admin.api_keys import DEFAULT_PERMISSIONS, ApiKeySpec
from bucketline.errors import Forbidden, ValidationFailed, ValidationIssue
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

MAX_EMAIL = 320
USER = "/organizations/users/{user_email}/api-keys"
Revoked = Annotated[bool, Query(description="Include revoked keys.")]
Sessions = Annotated[bool, Query(description="Accepted without effect: there are no session keys.")]
Force = Annotated[bool, Query(description="Accepted without effect: a key can always be revoked.")]


async def get_key_owner(caller: AdminPrincipal, user_email: str) -> str:
    """Return the normalized e-mail address of the user whose keys the caller manages.

    A restricted key manages no keys, since it could create one that may access more than itself.
    """
    if caller.namespaces:
        raise Forbidden("a key that is restricted to some namespaces cannot manage keys")
    name, at, host = user_email.partition("@")
    if not (name and at and host) or len(user_email) > MAX_EMAIL or not user_email.isprintable():
        raise ValidationFailed([ValidationIssue("email", ("path", "user_email"), "an e-mail address is expected")])
    return user_email.lower()


KeyOwner = Annotated[str, Depends(get_key_owner)]


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
async def create_key(container: ContainerDep, caller: AdminPrincipal, user: KeyOwner, body: CreateKey) -> IssuedKey:
    """Show the plain text of the new key; it cannot be shown again."""
    spec = ApiKeySpec(
        name=body.name,
        permissions=body.granted() or DEFAULT_PERMISSIONS,
        namespaces=body.namespaces(),
        description=body.description or "",
        expires_at=body.expires_at,
        rate_limit=body.rate_limit_override,
    )
    issued = await container.keyring.create(caller.organization_id, user, spec, created_by=caller.key_id)
    return IssuedKey.issued(issued, container.clock.now())


@router.get(USER, summary="List a user's keys", responses=errors())
async def list_keys(
    container: ContainerDep,
    caller: AdminPrincipal,
    user: KeyOwner,
    include_revoked: Revoked = False,
    include_session_keys: Sessions = False,  # noqa: ARG001 - has no effect
) -> KeyList:
    """List the keys without their secrets."""
    keys = await container.keyring.of_user(caller.organization_id, user, revoked=include_revoked)
    return KeyList(results=[Key.of(key, container.clock.now()) for key in keys], total=len(keys))


@router.patch(USER + "/{key_name}", summary="Change a key", responses=errors(409))
async def update_key(
    container: ContainerDep, caller: AdminPrincipal, user: KeyOwner, key_name: str, body: UpdateKey
) -> Key:
    """Change only the fields that are sent."""
    sent = body.model_fields_set
    changes: dict[str, object] = {}
    if body.name is not None:
        changes["name"] = body.name
    if "description" in sent:
        changes["description"] = body.description or ""
    if (granted := body.granted()) is not None:
        changes["permissions"] = granted
    if "scopes" in sent:
        changes["namespaces"] = await container.keyring.namespace_ids(caller.organization_id, body.namespaces())
    if "rate_limit_override" in sent:
        changes["rate_limit"] = body.rate_limit_override
    if "expires_at" in sent:
        changes["expires_at"] = body.expires_at
    key = await container.keyring.change(caller.organization_id, user, key_name, changes)
    if body.status == "revoked":
        key = await container.keyring.revoke(caller.organization_id, user, key["name"])
    container.auth.forget()
    return Key.of(key, container.clock.now())


@router.delete(USER + "/{key_name}", summary="Revoke a key", responses=errors())
async def revoke_key(
    container: ContainerDep,
    caller: AdminPrincipal,
    user: KeyOwner,
    key_name: str,
    force: Force = False,  # noqa: ARG001 - has no effect
) -> KeyRevoked:
    """End the validity of the key for good: here at once, on other replicas within their cache time."""
    await container.keyring.revoke(caller.organization_id, user, key_name)
    container.auth.forget()
    return KeyRevoked()


@router.post(USER + "/{key_name}/rotate", summary="Give a key a new secret", responses=errors())
async def rotate_key(container: ContainerDep, caller: AdminPrincipal, user: KeyOwner, key_name: str) -> IssuedKey:
    """Show the plain text of the new secret; the old one stays valid for the grace period."""
    issued = await container.keyring.rotate(caller.organization_id, user, key_name)
    container.auth.forget()
    return IssuedKey.issued(issued, container.clock.now())
