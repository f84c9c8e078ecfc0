"""Namespaces: the unit of isolation. Everything else names the namespace it belongs to."""

from collections.abc import Collection as Members
from datetime import datetime
from typing import NotRequired, TypedDict

from bucketline.db.mongo import Index
from bucketline.db.repository import NamedRepository


class NamespaceDocument(TypedDict):
    """A namespace. Names are unique in an organisation. ``deleting`` from the request to delete on.

    ``settings`` is empty and only read by the previous release, which may run at the same time.

    One with ``expires_at`` is deleted by itself then.
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
        """Ids of the organisation's namespaces, newest first; only those ``within``, if any are given."""
        where = listing_filter(organization_id, within)
        found = await self.collection.find(
            where, limit=MAX_NAMESPACES, sort=[("created_at", -1), ("_id", -1)], fields=["_id"]
        )
        return [namespace["_id"] for namespace in found]


def listing_filter(organization_id: str, within: Members[str] = ()) -> dict[str, object]:
    """Namespaces of an organisation that are not being deleted; only those ``within``, if any are given."""
    where: dict[str, object] = {"organization_id": organization_id, "deleting": {"$ne": True}}
    if within:
        where["_id"] = {"$in": sorted(within)}
    return where
