"""Who is asking, and may they: keys, permissions and namespaces, decided once a request."""

import hmac
from datetime import timedelta

from cachetools import TTLCache

from bucketline.api_keys.format import digest, key_id_of
from bucketline.clock import Clock
from bucketline.db.api_keys import PERMISSIONS, ApiKeyDocument, ApiKeys, Permission
from bucketline.db.namespaces import NamespaceDocument, Namespaces
from bucketline.errors import BadRequest, Forbidden, NotFound, Unauthorized
from bucketline_ingest_api.principal import Principal
from bucketline_ingest_api.settings import ApiSettings

BOOTSTRAP_ID = "bootstrap"
LAST_USED_RESOLUTION = timedelta(minutes=5)
_NOBODY = "0" * 64


class Auth:
    """Recognises callers. A key that was revoked stops working within ``key_cache_seconds``."""

    def __init__(self, keys: ApiKeys, namespaces: Namespaces, settings: ApiSettings, *, clock: Clock) -> None:
        self._keys = keys
        self._namespaces = namespaces
        self._settings = settings
        self._clock = clock
        self._callers: TTLCache[str, Principal] = TTLCache(10_000, settings.key_cache_seconds)
        self._scopes: TTLCache[tuple[str, str], NamespaceDocument] = TTLCache(10_000, settings.namespace_cache_seconds)
        self._pepper = settings.key_pepper.get_secret_value()
        self._bootstrap = settings.key.get_secret_value() if settings.key else None

    async def caller(self, authorization: str | None) -> Principal:
        """The caller behind an ``Authorization`` header; :class:`Unauthorized` if it is nobody's."""
        scheme, _, clear = (authorization or "").partition(" ")
        clear = clear.strip()
        if scheme.lower() != "bearer" or not clear or len(clear) > 512:
            raise Unauthorized
        hashed = digest(clear, self._pepper)
        known = self._callers.get(hashed)
        if known is None:
            known = self._bootstrapped(clear) or await self._stored(clear, hashed)
            self._callers[hashed] = known
        elif known.expires_at is not None and known.expires_at <= self._clock.now():
            raise Unauthorized
        return known

    async def namespace(self, caller: Principal, identifier: str | None) -> NamespaceDocument:
        """The namespace that ``X-Namespace`` names, by id or name.

        :class:`NotFound` also for one that this key may not see: what exists is nobody else's business.
        """
        if not identifier:
            raise BadRequest("the X-Namespace header is missing", code="namespace_required")
        place = (caller.organization_id, identifier)
        found = self._scopes.get(place)
        if found is None:
            found = await self._namespaces.resolve(caller.organization_id, identifier)
            if found is None or found.get("deleting"):
                raise NotFound.of("namespace", identifier)
            self._scopes[place] = found
        if not can_access(caller, found):
            raise NotFound.of("namespace", identifier)
        return found

    def forget(self) -> None:
        """Drops what is cached: keys or namespaces were changed here."""
        self._callers.clear()
        self._scopes.clear()

    def _bootstrapped(self, clear: str) -> Principal | None:
        if self._bootstrap is None or not hmac.compare_digest(clear.encode(), self._bootstrap.encode()):
            return None
        return Principal(
            key_id=BOOTSTRAP_ID,
            key_name="default",
            organization_id=self._settings.organization_id,
            user_email=None,
            permissions=frozenset(PERMISSIONS),
            namespaces=frozenset(),
        )

    async def _stored(self, clear: str, hashed: str) -> Principal:
        key_id = key_id_of(clear)
        key = await self._keys.get(key_id) if key_id else None
        now = self._clock.now()
        good = [hmac.compare_digest(hashed, key["hash"] if key else _NOBODY)]
        if key and (until := key.get("previous_until")) and until > now:
            good.append(hmac.compare_digest(hashed, key.get("previous_hash") or _NOBODY))
        if key is None or not any(good) or not _valid(key, self._clock):
            raise Unauthorized
        await self._note_use(key)
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

    async def _note_use(self, key: ApiKeyDocument) -> None:
        now = self._clock.now()
        used = key.get("last_used_at")
        if used is None or now - used > LAST_USED_RESOLUTION:
            await self._keys.collection.update_one({"_id": key["_id"]}, {"$set": {"last_used_at": now}})


def require(caller: Principal, permission: Permission) -> None:
    """:class:`Forbidden` unless the key has the permission; ADMIN has them all."""
    if permission not in caller.permissions and "ADMIN" not in caller.permissions:
        raise Forbidden(f"this key may not {permission.lower()}", details={"required": permission.lower()})


def can_access(caller: Principal, namespace: NamespaceDocument) -> bool:
    """Whether the namespace is of the caller's organisation and within the key's restriction."""
    if namespace["organization_id"] != caller.organization_id:
        return False
    return not caller.namespaces or namespace["_id"] in caller.namespaces


def _valid(key: ApiKeyDocument, clock: Clock) -> bool:
    expires = key.get("expires_at")
    return key["revoked_at"] is None and (expires is None or expires > clock.now())
