"""Authenticates callers by API key and resolves the namespace of a request."""

import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta

from cachetools import TTLCache

from bucketline.admin.api_keys import digest, key_id_of
from bucketline.clock import Clock
from bucketline.db.api_keys import PERMISSIONS, ApiKeyDocument, ApiKeys, Permission
from bucketline.db.namespaces import NamespaceDocument, Namespaces
from bucketline.errors import BadRequest, Forbidden, NotFound, Unauthorized
from bucketline_ingest_api.settings import ApiSettings

BOOTSTRAP_ID = "bootstrap"
LAST_USED_RESOLUTION = timedelta(minutes=5)
_NO_HASH = "0" * 64


@dataclass(frozen=True)
class Principal:
    """The caller of a request. ``namespaces`` are the ids that the key is restricted to; empty: no restriction."""

    key_id: str
    key_name: str
    organization_id: str
    user_email: str | None
    permissions: frozenset[Permission]
    namespaces: frozenset[str]
    rate_limit: int | None = None
    expires_at: datetime | None = None


class Auth:
    """Looks up callers and namespaces, with a cache. A revoked key stops working within ``key_cache_seconds``."""

    def __init__(self, keys: ApiKeys, namespaces: Namespaces, settings: ApiSettings, *, clock: Clock) -> None:
        self._keys = keys
        self._namespaces = namespaces
        self._settings = settings
        self._clock = clock
        self._principal_cache: TTLCache[str, Principal] = TTLCache(10_000, settings.key_cache_seconds)
        self._namespace_cache: TTLCache[tuple[str, str], NamespaceDocument] = TTLCache(
            10_000, settings.namespace_cache_seconds
        )
        self._pepper = settings.key_pepper.get_secret_value()
        self._bootstrap = settings.key.get_secret_value() if settings.key else None

    async def caller(self, authorization: str | None) -> Principal:
        """Return the caller of an ``Authorization`` header; :class:`Unauthorized` for an invalid one."""
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key or len(key) > 512:
            raise Unauthorized
        hashed = digest(key, self._pepper)
        principal = self._principal_cache.get(hashed)
        if principal is None:
            principal = self._match_bootstrap_key(key) or await self._find_stored_key(key, hashed)
            self._principal_cache[hashed] = principal
        elif principal.expires_at is not None and principal.expires_at <= self._clock.now():
            raise Unauthorized
        return principal

    async def namespace(self, caller: Principal, identifier: str | None) -> NamespaceDocument:
        """Return the namespace with this id or name.

        :class:`NotFound` also for one that the key has no access to, so that its existence is not disclosed.
        """
        if not identifier:
            raise BadRequest("the X-Namespace header is missing", code="namespace_required")
        cache_key = (caller.organization_id, identifier)
        namespace = self._namespace_cache.get(cache_key)
        if namespace is None:
            namespace = await self._namespaces.resolve(caller.organization_id, identifier)
            if namespace is None or namespace.get("deleting"):
                raise NotFound.of("namespace", identifier)
            self._namespace_cache[cache_key] = namespace
        if not can_access(caller, namespace):
            raise NotFound.of("namespace", identifier)
        return namespace

    def forget(self) -> None:
        """Clear the caches after keys or namespaces were changed by this replica."""
        self._principal_cache.clear()
        self._namespace_cache.clear()

    def _match_bootstrap_key(self, key: str) -> Principal | None:
        if self._bootstrap is None or not hmac.compare_digest(key.encode(), self._bootstrap.encode()):
            return None
        return Principal(
            key_id=BOOTSTRAP_ID,
            key_name="default",
            organization_id=self._settings.organization_id,
            user_email=None,
            permissions=frozenset(PERMISSIONS),
            namespaces=frozenset(),
        )

    async def _find_stored_key(self, clear: str, hashed: str) -> Principal:
        key_id = key_id_of(clear)
        key = await self._keys.get_by_id(key_id) if key_id else None
        now = self._clock.now()
        matches = [hmac.compare_digest(hashed, key["hash"] if key else _NO_HASH)]
        if key and (until := key.get("previous_until")) and until > now:
            matches.append(hmac.compare_digest(hashed, key.get("previous_hash") or _NO_HASH))
        if key is None or not any(matches) or not _is_active(key, self._clock):
            raise Unauthorized
        await self._record_use(key)
        return Principal(
            key_id=key["_id"],
            key_name=key["name"],
            organization_id=key["organization_id"],
            user_email=key["user_email"],
            permissions=frozenset(key["permissions"]),
            namespaces=frozenset(key["namespaces"]),
            rate_limit=key.get("rate_limit"),
            expires_at=key.get("expires_at"),
        )

    async def _record_use(self, key: ApiKeyDocument) -> None:
        now = self._clock.now()
        last_used = key.get("last_used_at")
        if last_used is None or now - last_used > LAST_USED_RESOLUTION:
            await self._keys.record_use(key["_id"], now)


def require(caller: Principal, permission: Permission) -> None:
    """Raise :class:`Forbidden` unless the key has the permission; ADMIN includes all others."""
    if permission not in caller.permissions and "ADMIN" not in caller.permissions:
        raise Forbidden(f"this key may not {permission.lower()}", details={"required": permission.lower()})


def can_access(caller: Principal, namespace: NamespaceDocument) -> bool:
    """Return whether the namespace is in the caller's organization and not excluded by the key."""
    if namespace["organization_id"] != caller.organization_id:
        return False
    return not caller.namespaces or namespace["_id"] in caller.namespaces


def _is_active(key: ApiKeyDocument, clock: Clock) -> bool:
    expires = key.get("expires_at")
    return key["revoked_at"] is None and (expires is None or expires > clock.now())
