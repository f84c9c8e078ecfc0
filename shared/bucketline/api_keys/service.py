"""What an administrator does with keys, by the API or the command line: make, list, change, rotate, revoke.

A clear key leaves :meth:`ApiKeyService.create` and :meth:`ApiKeyService.rotate` once, in :class:`NewApiKey`, and is
nowhere else: not
in the database, not in a log, not in an error.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from bucketline.api_keys.format import digest, new_key
from bucketline.api_keys.settings import ApiKeySettings
from bucketline.clock import Clock
from bucketline.db.api_keys import PERMISSIONS, ApiKeyDocument, ApiKeys, Permission
from bucketline.db.mongo import DuplicateKey
from bucketline.db.namespaces import Namespaces
from bucketline.errors import AlreadyExists, NotFound, ValidationFailed, ValidationIssue

DEFAULT_PERMISSIONS: tuple[Permission, ...] = ("READ", "WRITE", "DELETE")
MAX_NAMESPACES_A_KEY = 100


@dataclass(frozen=True)
class NewApiKey:
    """A key and, this once, how it reads in clear."""

    key: ApiKeyDocument
    clear: str = field(repr=False)


@dataclass(frozen=True)
class ApiKeySpec:
    """What a new key is to be. ``namespaces`` by id or name; empty: every one. ``rate_limit`` in requests a window."""

    name: str
    permissions: Sequence[Permission] = DEFAULT_PERMISSIONS
    namespaces: Sequence[str] = ()
    description: str = ""
    expires_at: datetime | None = None
    rate_limit: int | None = None


class ApiKeyService:
    """The keys of one organisation. What changes here reaches every API replica within its cache time."""

    def __init__(self, keys: ApiKeys, namespaces: Namespaces, settings: ApiKeySettings, *, clock: Clock) -> None:
        self._keys = keys
        self._namespaces = namespaces
        self._pepper = settings.key_pepper.get_secret_value()
        self._grace = timedelta(seconds=settings.key_grace_seconds)
        self._clock = clock

    async def create(self, organization_id: str, user_email: str, spec: ApiKeySpec, *, created_by: str) -> NewApiKey:
        """A new key. :class:`AlreadyExists` when the user has an active one of this name."""
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
            await self._keys.collection.insert(key)
        except DuplicateKey as error:
            raise _taken(spec.name) from error
        return NewApiKey(key, clear)

    async def of_user(self, organization_id: str, user_email: str, *, revoked: bool = False) -> list[ApiKeyDocument]:
        """The user's keys, newest first; at most 1000."""
        return await self._keys.of_user(organization_id, user_email, revoked=revoked)

    async def of_organization(self, organization_id: str, *, limit: int = 1000) -> list[ApiKeyDocument]:
        """All keys, by user; revoked ones too."""
        return await self._keys.of_organization(organization_id, limit=limit)

    async def change(
        self, organization_id: str, user_email: str, name: str, changes: dict[str, object]
    ) -> ApiKeyDocument:
        """Changes fields of the active key of this name. ``namespaces`` must be ids already."""
        now = self._clock.now()
        expires_at = changes.get("expires_at")
        if isinstance(expires_at, datetime):
            _check_expiry(expires_at, now)
        try:
            key = await self._keys.change(organization_id, user_email, name, {**changes, "updated_at": now})
        except DuplicateKey as error:
            raise _taken(str(changes.get("name"))) from error
        return _found(key, name)

    async def revoke(self, organization_id: str, user_email: str, name: str) -> ApiKeyDocument:
        """Ends the key, and the secret it had before a rotation. Its name is free afterwards."""
        changes: dict[str, object] = {"revoked_at": self._clock.now(), "previous_hash": None, "previous_until": None}
        return await self.change(organization_id, user_email, name, changes)

    async def rotate(self, organization_id: str, user_email: str, name: str) -> NewApiKey:
        """A new secret for the key. The old one works on for the grace period, so that nobody is cut off."""
        known = _found(await self._keys.active(organization_id, user_email, name), name)
        _, clear = new_key(known["_id"])
        changes: dict[str, object] = {
            "hash": digest(clear, self._pepper),
            "previous_hash": known["hash"],
            "previous_until": self._clock.now() + self._grace,
        }
        return NewApiKey(await self.change(organization_id, user_email, name, changes), clear)

    async def namespace_ids(self, organization_id: str, identifiers: Sequence[str]) -> list[str]:
        """The ids of namespaces named by id or name. :class:`ValidationFailed` for one that does not exist."""
        if len(identifiers) > MAX_NAMESPACES_A_KEY:
            raise ValidationFailed(
                [ValidationIssue("too_long", ("body", "scopes"), f"at most {MAX_NAMESPACES_A_KEY} namespaces a key")]
            )
        ids, faults = [], []
        for index, identifier in enumerate(identifiers):
            found = await self._namespaces.resolve(organization_id, identifier)
            if found is None:
                faults.append(
                    ValidationIssue("unknown_namespace", ("body", "scopes", index), "there is no such namespace")
                )
            elif found["_id"] not in ids:
                ids.append(found["_id"])
        if faults:
            raise ValidationFailed(faults)
        return ids


def _check_expiry(expires_at: datetime | None, now: datetime) -> None:
    if expires_at is not None and expires_at <= now:
        raise ValidationFailed([ValidationIssue("past", ("body", "expires_at"), "the key would have expired already")])


def _found(key: ApiKeyDocument | None, name: str) -> ApiKeyDocument:
    if key is None:
        raise NotFound.of("api_key", name)
    return key


def _taken(name: str) -> AlreadyExists:
    return AlreadyExists("a key with this name exists", code="api_key_name_taken", details={"name": name})
