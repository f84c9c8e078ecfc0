"""Request and response bodies of the API-key endpoints."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from bucketline.admin.api_keys import NewApiKey, visible_prefix
from bucketline.db.api_keys import ApiKeyDocument, Permission, as_permissions
from bucketline_ingest_api.schemas import Moment, Name, RequestBody, ResponseBody, Timestamp, Unsupported, example

PermissionName = Literal["read", "write", "delete", "admin", "READ", "WRITE", "DELETE", "ADMIN"]
Status = Literal["active", "revoked", "expired"]


KeyName = Annotated[Name, Field(max_length=100)]
"""The name of a key, which is a path segment."""


class KeyScope(RequestBody):
    """Restricts the key to a namespace, by id or name."""

    resource_type: Literal["namespace"]
    resource_id: str = Field(min_length=1, max_length=100)
    operations: Unsupported = None


class KeyBody(RequestBody):
    """The fields that creating and changing a key have in common."""

    description: str | None = Field(default=None, max_length=500)
    permissions: list[PermissionName] | None = Field(default=None, min_length=1, max_length=8)
    scopes: list[KeyScope] | None = Field(default=None, max_length=100)
    rate_limit_override: int | None = Field(default=None, ge=1, le=10_000_000)
    expires_at: Moment | None = None
    allowed_origins: Unsupported = None

    def granted(self) -> list[Permission] | None:
        """Return the permissions in upper case, if any were sent."""
        return None if self.permissions is None else as_permissions(self.permissions)

    def namespaces(self) -> list[str]:
        """Return the namespaces that the key is restricted to, by id or name."""
        return [scope.resource_id for scope in self.scopes or ()]


class CreateKey(KeyBody):
    """Creates a key. Without ``scopes`` it is valid for every namespace. Unsupported restrictions are rejected."""

    model_config = example(
        {
            "name": "scanner",
            "permissions": ["read", "write"],
            "scopes": [{"resource_type": "namespace", "resource_id": "demo"}],
        }
    )

    name: KeyName
    principal_id: Unsupported = None


class UpdateKey(KeyBody):
    """Only the fields that are sent change. ``status`` revoked ends the key; this cannot be undone."""

    model_config = example({"description": "The scanner in hall 2", "permissions": ["read"]})

    name: KeyName | None = None
    status: Literal["active", "revoked"] | None = None


_KEY_EXAMPLE: dict[str, Any] = {
    "key_id": "k3v9q2m7x1a8",
    "key_hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "key_prefix": "sk_k3v9q2m",
    "key_type": "standard",
    "internal_id": "org_local",
    "organization_id": "org_local",
    "user_id": "ada@example.org",
    "name": "scanner",
    "description": "",
    "permissions": ["read", "write"],
    "scopes": [{"resource_type": "namespace", "resource_id": "ns_06h2k4v9c3f8m1q7r5tw"}],
    "status": "active",
    "created_at": "2026-03-01T09:00:00.000Z",
}


class GrantedScope(ResponseBody):
    """A namespace that the key is restricted to."""

    resource_type: str = "namespace"
    resource_id: str


class Key(ResponseBody):
    """A key without its secret."""

    model_config = example(_KEY_EXAMPLE)

    key_id: str
    key_hash: str
    key_prefix: str
    key_type: str = "standard"
    internal_id: str
    organization_id: str
    user_id: str
    name: str
    description: str
    permissions: list[str]
    scopes: list[GrantedScope]
    rate_limit_override: int | None = None
    status: Status
    expires_at: Timestamp | None = None
    last_used_at: Timestamp | None = None
    created_at: Timestamp
    created_by: str | None = None
    revoked_at: Timestamp | None = None

    @classmethod
    def of(cls, key: ApiKeyDocument, now: datetime) -> "Key":
        """Return the response for a stored key."""
        return cls.model_validate(_key_fields(key, now))


class IssuedKey(Key):
    """A key with its new secret: ``key`` is the key in plain text, which is shown only once."""

    model_config = example({**_KEY_EXAMPLE, "key": "sk_k3v9q2m7x1a8_(32 characters)(8 of checksum)"})

    key: str

    @classmethod
    def issued(cls, issued: NewApiKey, now: datetime) -> "IssuedKey":
        """Return the response for a key with a new secret."""
        return cls.model_validate({**_key_fields(issued.key, now), "key": issued.clear})


class KeyList(ResponseBody):
    """A user's keys."""

    model_config = example({"results": [_KEY_EXAMPLE], "total": 1})

    results: list[Key]
    total: int


class KeyRevoked(ResponseBody):
    """Confirms that the key was revoked."""

    message: str = "key revoked"
    success: bool = True


class MeKey(ResponseBody):
    """Describes the caller's key."""

    name: str
    key_type: str = "SECRET"
    permissions: list[str]
    expires_at: Timestamp | None = None


class Me(ResponseBody):
    """The caller. ``rate_limits`` are requests per window; absent while rate limiting is disabled."""

    model_config = example(
        {
            "organization_id": "org_local",
            "account_type": "SCALE",
            "user_email": None,
            "key": {"name": "default", "key_type": "SECRET", "permissions": ["READ", "WRITE", "DELETE", "ADMIN"]},
            "rate_limits": None,
            "principal_scoped": False,
        }
    )

    organization_id: str
    account_type: str = "SCALE"
    user_email: str | None = None
    key: MeKey
    rate_limits: dict[str, int] | None = None
    principal_scoped: bool = False


def _key_fields(key: ApiKeyDocument, now: datetime) -> dict[str, Any]:
    """Return the fields of the response for a stored key. Fields of the same name are copied."""
    expires = key.get("expires_at")
    expired = expires is not None and expires <= now
    return {
        **key,
        "key_id": key["_id"],
        "key_hash": key["hash"],
        "key_prefix": visible_prefix(key["_id"]),
        "internal_id": key["organization_id"],
        "user_id": key["user_email"],
        "permissions": [permission.lower() for permission in key["permissions"]],
        "scopes": [GrantedScope(resource_id=namespace_id) for namespace_id in key["namespaces"]],
        "rate_limit_override": key.get("rate_limit"),
        "status": "revoked" if key["revoked_at"] else "expired" if expired else "active",
    }
