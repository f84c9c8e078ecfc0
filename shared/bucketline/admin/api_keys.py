"""API keys: their format, their settings, and what an administrator does with them.

A key reads ``sk_<key id>_<secret><checksum>``: a prefix for secret scanners, an id to look the key up by, 190 random
bits, and a checksum, so that a mistyped key is rejected without a query. Only the SHA-256 of the key in clear, keyed
with the deployment's pepper, is stored; a slow hash adds nothing to a random secret. The key in clear is returned once,
in :class:`NewApiKey`, and appears in no log and no error.
"""

import hashlib
import hmac
import re
import secrets
import string
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pydantic import SecretStr
from pydantic_settings import SettingsConfigDict

from bucketline.clock import Clock
from bucketline.db.api_keys import PERMISSIONS, ApiKeyDocument, ApiKeys, Permission
from bucketline.db.mongo import DuplicateKey
from bucketline.db.namespaces import Namespaces
from bucketline.errors import AlreadyExists, NotFound, ValidationFailed, ValidationIssue
from bucketline.settings import Seconds, SettingsBase

DEFAULT_PERMISSIONS: tuple[Permission, ...] = ("READ", "WRITE", "DELETE")
MAX_NAMESPACES_PER_KEY = 100

_FORMAT = re.compile(r"sk_([a-z0-9]{12})_([A-Za-z0-9]{32})([a-z0-9]{8})")
_ID_LENGTH, _SECRET_LENGTH, _VISIBLE_LENGTH = 12, 32, 10


class ApiKeySettings(SettingsBase):
    """Settings of API keys that the API and the command line share."""

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_API_")

    organization_id: str = "org_local"
    """The organization of this deployment."""
    key_pepper: SecretStr = SecretStr("")
    """Part of every stored hash. Changing it invalidates every key."""
    key_grace_seconds: Seconds = 24 * 3600.0
    """How long the old secret of a rotated key stays valid."""


def new_key(key_id: str | None = None) -> tuple[str, str]:
    """Return a key id, which is ``key_id`` for a rotation, and a new key in clear."""
    key_id = key_id or _random_text(string.ascii_lowercase + string.digits, _ID_LENGTH)
    secret = _random_text(string.ascii_letters + string.digits, _SECRET_LENGTH)
    return key_id, f"sk_{key_id}_{secret}{_checksum(key_id + secret)}"


def key_id_of(clear: str) -> str | None:
    """Return the id in a well-formed key, or None."""
    match = _FORMAT.fullmatch(clear)
    if match is None or not hmac.compare_digest(_checksum(match[1] + match[2]), match[3]):
        return None
    return match[1]


def digest(clear: str, pepper: str) -> str:
    """Return the hash that is stored of a key."""
    return hmac.new(pepper.encode(), clear.encode(), hashlib.sha256).hexdigest()


def visible_prefix(key_id: str) -> str:
    """Return the beginning of the key in clear, which identifies it to its owner and contains nothing of the secret."""
    return f"sk_{key_id}"[:_VISIBLE_LENGTH]


def _random_text(alphabet: str, length: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


@dataclass(frozen=True)
class NewApiKey:
    """A stored key together with the key in clear."""

    key: ApiKeyDocument
    clear: str = field(repr=False)


@dataclass(frozen=True)
class ApiKeySpec:
    """The properties of a new key. ``namespaces`` are ids or names; none means all. ``rate_limit`` is per window."""

    name: str
    permissions: Sequence[Permission] = DEFAULT_PERMISSIONS
    namespaces: Sequence[str] = ()
    description: str = ""
    expires_at: datetime | None = None
    rate_limit: int | None = None


class ApiKeyService:
    """Creates, changes, rotates and revokes keys. Every API replica follows within its cache time."""

    def __init__(self, keys: ApiKeys, namespaces: Namespaces, settings: ApiKeySettings, *, clock: Clock) -> None:
        self._keys = keys
        self._namespaces = namespaces
        self._pepper = settings.key_pepper.get_secret_value()
        self._grace = timedelta(seconds=settings.key_grace_seconds)
        self._clock = clock

    async def create(self, organization_id: str, user_email: str, spec: ApiKeySpec, *, created_by: str) -> NewApiKey:
        """Create a key. Raises AlreadyExists when the user has an active key of this name."""
        now = self._clock.now()
        _check_expiry(spec.expires_at, now)
        key_id, clear = new_key()
        key: ApiKeyDocument = {
            "_id": key_id,
            "name": spec.name,
            "description": spec.description,
            "user_email": user_email,
            "organization_id": organization_id,
            "hash": digest(clear, self._pepper),
            "permissions": [p for p in PERMISSIONS if p in spec.permissions],
            "namespaces": await self.namespace_ids(organization_id, spec.namespaces),
            "created_at": now,
            "updated_at": now,
            "revoked_at": None,
            "expires_at": spec.expires_at,
            "rate_limit": spec.rate_limit,
            "created_by": created_by,
        }
        try:
            await self._keys.create(key)
        except DuplicateKey as error:
            raise _name_taken(spec.name) from error
        return NewApiKey(key, clear)

    async def of_user(self, organization_id: str, user_email: str, *, revoked: bool = False) -> list[ApiKeyDocument]:
        """Return the user's keys, newest first; at most 1000."""
        return await self._keys.of_user(organization_id, user_email, revoked=revoked)

    async def of_organization(self, organization_id: str, *, limit: int = 1000) -> list[ApiKeyDocument]:
        """Return all keys, including revoked ones, ordered by user."""
        return await self._keys.of_organization(organization_id, limit=limit)

    async def change(
        self, organization_id: str, user_email: str, name: str, changes: Mapping[str, object]
    ) -> ApiKeyDocument:
        """Set fields of the active key of this name and return it. ``namespaces`` must be ids."""
        now = self._clock.now()
        expires_at = changes.get("expires_at")
        if isinstance(expires_at, datetime):
            _check_expiry(expires_at, now)
        try:
            key = await self._keys.change(organization_id, user_email, name, {**changes, "updated_at": now})
        except DuplicateKey as error:
            raise _name_taken(str(changes.get("name"))) from error
        return _require(key, name)

    async def revoke(self, organization_id: str, user_email: str, name: str) -> ApiKeyDocument:
        """Revoke the key, and the secret that it had before a rotation. Its name can be used again."""
        changes = {"revoked_at": self._clock.now(), "previous_hash": None, "previous_until": None}
        return await self.change(organization_id, user_email, name, changes)

    async def rotate(self, organization_id: str, user_email: str, name: str) -> NewApiKey:
        """Give the key a new secret. The old one stays valid for the grace period."""
        key = _require(await self._keys.active(organization_id, user_email, name), name)
        _, clear = new_key(key["_id"])
        changes = {
            "hash": digest(clear, self._pepper),
            "previous_hash": key["hash"],
            "previous_until": self._clock.now() + self._grace,
        }
        return NewApiKey(await self.change(organization_id, user_email, name, changes), clear)

    async def namespace_ids(self, organization_id: str, identifiers: Sequence[str]) -> list[str]:
        """Return the ids of namespaces given by id or name. Raises ValidationFailed for an unknown one."""
        if len(identifiers) > MAX_NAMESPACES_PER_KEY:
            message = f"at most {MAX_NAMESPACES_PER_KEY} namespaces per key"
            raise ValidationFailed([ValidationIssue("too_long", ("body", "scopes"), message)])
        namespaces = [await self._namespaces.resolve(organization_id, identifier) for identifier in identifiers]
        issues = [
            ValidationIssue("unknown_namespace", ("body", "scopes", index), "there is no such namespace")
            for index, namespace in enumerate(namespaces)
            if namespace is None
        ]
        if issues:
            raise ValidationFailed(issues)
        return list(dict.fromkeys(namespace["_id"] for namespace in namespaces if namespace is not None))


def _check_expiry(expires_at: datetime | None, now: datetime) -> None:
    if expires_at is not None and expires_at <= now:
        raise ValidationFailed([ValidationIssue("past", ("body", "expires_at"), "the key would already be expired")])


def _require(key: ApiKeyDocument | None, name: str) -> ApiKeyDocument:
    if key is None:
        raise NotFound.of("api_key", name)
    return key


def _name_taken(name: str) -> AlreadyExists:
    return AlreadyExists(
        "an active key with this name exists already", code="api_key_name_taken", details={"name": name}
    )
