"""Manage API keys on behalf of HTTP callers."""

from bucketline.admin.api_keys import DEFAULT_PERMISSIONS, ApiKeySpec, NewApiKey
from bucketline.db.api_keys import ApiKeyDocument
from bucketline.errors import Forbidden, ValidationFailed, ValidationIssue
from bucketline_ingest_api.api_keys.schemas import CreateKey, KeyScope, UpdateKey
from bucketline_ingest_api.auth import Principal
from bucketline_ingest_api.container import Container

MAX_EMAIL = 320


def require_key_admin(caller: Principal, user_email: str) -> str:
    """Return the normalized e-mail address of the user whose keys the caller manages.

    A restricted key manages no keys, since it could create one that may access more than itself.
    """
    if caller.namespaces:
        raise Forbidden("a key that is restricted to some namespaces cannot manage keys")
    name, at, host = user_email.partition("@")
    if not (name and at and host) or len(user_email) > MAX_EMAIL or not user_email.isprintable():
        raise ValidationFailed([ValidationIssue("email", ("path", "user_email"), "an e-mail address is expected")])
    return user_email.lower()


async def create_key(container: Container, caller: Principal, user_email: str, body: CreateKey) -> NewApiKey:
    """Create a key of the user; its plain text is returned only this once."""
    spec = ApiKeySpec(
        name=body.name,
        permissions=body.granted() or DEFAULT_PERMISSIONS,
        namespaces=_identifiers(body.scopes),
        description=body.description or "",
        expires_at=body.expires_at,
        rate_limit=body.rate_limit_override,
    )
    user = require_key_admin(caller, user_email)
    return await container.keyring.create(caller.organization_id, user, spec, created_by=caller.key_id)


async def update_key(
    container: Container, caller: Principal, user_email: str, name: str, body: UpdateKey
) -> ApiKeyDocument:
    """Set the fields that were sent and return the updated key. Other replicas follow within their cache time."""
    user, organization_id = require_key_admin(caller, user_email), caller.organization_id
    sent = body.model_fields_set
    changes: dict[str, object] = {}
    if body.name is not None:
        changes["name"] = body.name
    if "description" in sent:
        changes["description"] = body.description or ""
    if (granted := body.granted()) is not None:
        changes["permissions"] = granted
    if "scopes" in sent:
        changes["namespaces"] = await container.keyring.namespace_ids(organization_id, _identifiers(body.scopes))
    if "rate_limit_override" in sent:
        changes["rate_limit"] = body.rate_limit_override
    if "expires_at" in sent:
        changes["expires_at"] = body.expires_at
    key = await container.keyring.change(organization_id, user, name, changes)
    if body.status == "revoked":
        key = await container.keyring.revoke(organization_id, user, key["name"])
    container.auth.forget()
    return key


async def rotate_key(container: Container, caller: Principal, user_email: str, name: str) -> NewApiKey:
    """Give the key a new secret; the old one stays valid for the grace period."""
    issued = await container.keyring.rotate(caller.organization_id, require_key_admin(caller, user_email), name)
    container.auth.forget()
    return issued


async def revoke_key(container: Container, caller: Principal, user_email: str, name: str) -> None:
    """Revoke the key: here at once, on other replicas within their cache time."""
    await container.keyring.revoke(caller.organization_id, require_key_admin(caller, user_email), name)
    container.auth.forget()


def _identifiers(scopes: list[KeyScope] | None) -> list[str]:
    return [scope.resource_id for scope in scopes or ()]
