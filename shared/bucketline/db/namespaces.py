"""Namespaces: the unit of isolation. All other resources refer to their namespace."""

from collections.abc import Collection as Members
from datetime import datetime
from typing import NotRequired, TypedDict

from bucketline.db.mongo import Index
from bucketline.db.repository import NamedRepository


class NamespaceDocument(TypedDict):
    """A namespace. Names are unique in an organization. ``deleting`` is set by the request to delete it.

    ``settings`` is empty and only read by the previous release. At ``expires_at`` the namespace is deleted.
    """

    _id: str
    name: str
    organization_id: str
    description: str | None
    mode: str
    settings: dict[str, object]
    created_at: datetime
    updated_at: datetime
    expires_at: NotRequired[datetime | None]
    deleting: NotRequired[bool]
    deleting_since: NotRequired[datetime]
    delete_task: NotRequired[str]


INDEXES = (
    Index("name", [("organization_id", 1), ("name", 1)], unique=True),
    Index("listing", [("organization_id", 1), ("created_at", -1), ("_id", -1)]),
)

MAX_NAMESPACES = 10_000


class Namespaces(NamedRepository[NamespaceDocument]):
    """The repository of namespaces."""

    name = "namespaces"
    owner = "organization_id"

    async def ids(self, organization_id: str, *, within: Members[str] = ()) -> list[str]:
        """Return the ids of the namespaces of the organization, newest first; with ``within`` only those."""
        where = listing_filter(organization_id, within)
        found = await self.collection.find(
            where, limit=MAX_NAMESPACES, sort=[("created_at", -1), ("_id", -1)], fields=["_id"]
        )
        return [namespace["_id"] for namespace in found]


def listing_filter(organization_id: str, within: Members[str] = ()) -> dict[str, object]:
    """Return the filter of namespaces of an organization that are not being deleted; with ``within`` only those."""
    where: dict[str, object] = {"organization_id": organization_id, "deleting": {"$ne": True}}
    if within:
        where["_id"] = {"$in": sorted(within)}
    return where
