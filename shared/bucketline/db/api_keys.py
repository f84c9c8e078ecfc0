"""API keys: only a hash of each secret is stored."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, NotRequired, TypedDict

from bucketline.db.mongo import Index
from bucketline.db.repository import Repository

Permission = Literal["READ", "WRITE", "DELETE", "ADMIN"]
PERMISSIONS: tuple[Permission, ...] = ("READ", "WRITE", "DELETE", "ADMIN")

MAX_KEYS_A_USER = 1000


class ApiKeyDocument(TypedDict):
    """A key. ``_id`` is the public id in the clear key; ``hash`` is the hash of the clear key in hex.

    ``namespaces`` holds ids; empty means every namespace. The previous hash of a rotated key is valid until
    ``previous_until``. A revoked key is kept, but its name can be used again.
    """

    _id: str
    name: str
    description: str
    user_email: str
    organization_id: str
    hash: str
    permissions: list[Permission]
    namespaces: list[str]
    created_at: datetime
    updated_at: datetime
    revoked_at: datetime | None
    expires_at: NotRequired[datetime | None]
    rate_limit: NotRequired[int | None]
    created_by: NotRequired[str]
    last_used_at: NotRequired[datetime | None]
    previous_hash: NotRequired[str | None]
    previous_until: NotRequired[datetime | None]


INDEXES = (
    Index("hash", [("hash", 1)], unique=True),
    Index(
        "active_name",
        [("organization_id", 1), ("user_email", 1), ("name", 1)],
        unique=True,
        where={"revoked_at": {"$type": "null"}},
    ),
    Index("listing", [("organization_id", 1), ("user_email", 1), ("created_at", -1), ("_id", -1)]),
)


class ApiKeys(Repository[ApiKeyDocument]):
    """The repository of API keys."""

    name = "keys"

    async def record_use(self, key_id: str, at: datetime) -> None:
        """Store when the key was last used."""
        await self.collection.update_one({"_id": key_id}, {"$set": {"last_used_at": at}})

    async def active(self, organization_id: str, user_email: str, name: str) -> ApiKeyDocument | None:
        """Return the key of this name that is not revoked; it may have expired."""
        return await self.collection.find_one(_active(organization_id, user_email, name))

    async def of_user(self, organization_id: str, user_email: str, *, revoked: bool) -> list[ApiKeyDocument]:
        """Return the user's keys, newest first."""
        where: dict[str, object] = {"organization_id": organization_id, "user_email": user_email}
        if not revoked:
            where["revoked_at"] = None
        return await self.collection.find(where, limit=MAX_KEYS_A_USER, sort=[("created_at", -1), ("_id", -1)])

    async def of_organization(self, organization_id: str, *, limit: int) -> list[ApiKeyDocument]:
        """Return the keys of the organization, sorted by user."""
        return await self.collection.find(
            {"organization_id": organization_id}, limit=limit, sort=[("user_email", 1), ("created_at", -1), ("_id", -1)]
        )

    async def change(
        self, organization_id: str, user_email: str, name: str, changes: Mapping[str, object]
    ) -> ApiKeyDocument | None:
        """Set fields of the active key and return it. Raise ``DuplicateKey`` when a new name is taken."""
        return await self.collection.find_and_update(_active(organization_id, user_email, name), {"$set": changes})


def _active(organization_id: str, user_email: str, name: str) -> dict[str, object]:
    return {"organization_id": organization_id, "user_email": user_email, "name": name, "revoked_at": None}


def as_permissions(names: Sequence[str]) -> list[Permission]:
    """Return the permissions with these names, which may be in any case; raise ``ValueError`` for an unknown name."""
    wanted = {name.upper() for name in names}
    if unknown := wanted - set(PERMISSIONS):
        raise ValueError(f"unknown permissions: {', '.join(sorted(unknown))}")
    return [permission for permission in PERMISSIONS if permission in wanted]
