"""Namespaces: the unit of isolation. Everything else names the namespace it belongs to."""

from datetime import datetime
from typing import NotRequired, TypedDict

from bucketline.storage.mongo import Collection, Database, Index


class NamespaceDocument(TypedDict):
    """A namespace. Names are unique in the deployment. ``deleting`` from the request to delete on."""

    _id: str
    name: str
    organization_id: str
    description: str | None
    mode: str
    settings: dict[str, object]
    created_at: datetime
    updated_at: datetime
    deleting: NotRequired[bool]


INDEXES = (
    Index("name", [("name", 1)], unique=True),
    Index("listing", [("created_at", -1), ("_id", -1)]),
)


class Namespaces:
    """The repository of namespaces."""

    def __init__(self, database: Database) -> None:
        self.collection: Collection[NamespaceDocument] = database.collection("namespaces")

    async def resolve(self, identifier: str) -> NamespaceDocument | None:
        """By id or by name; an id wins over an equal name."""
        found = await self.collection.find({"$or": [{"_id": identifier}, {"name": identifier}]}, limit=2)
        return next((n for n in found if n["_id"] == identifier), found[0] if found else None)
