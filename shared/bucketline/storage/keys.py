"""API keys: only a hash of each secret is stored."""

from datetime import datetime
from typing import Literal, NotRequired, TypedDict

from bucketline.storage.mongo import Collection, Database, Index

Permission = Literal["READ", "WRITE", "DELETE", "ADMIN"]
PERMISSIONS: tuple[Permission, ...] = ("READ", "WRITE", "DELETE", "ADMIN")


class KeyDocument(TypedDict):
    """A key. ``_id`` is the public key id that the clear key carries; ``hash`` is SHA-256 of its secret, hex.

    ``namespaces`` empty: every namespace. A rotated key's previous hash stays good until ``previous_until``.
    """

    _id: str
    name: str
    user_email: str
    organization_id: str
    hash: str
    permissions: list[Permission]
    namespaces: list[str]
    created_at: datetime
    updated_at: datetime
    expires_at: NotRequired[datetime | None]
    revoked_at: NotRequired[datetime | None]
    last_used_at: NotRequired[datetime | None]
    previous_hash: NotRequired[str | None]
    previous_until: NotRequired[datetime | None]


INDEXES = (
    Index("hash", [("hash", 1)], unique=True),
    Index("previous", [("previous_hash", 1)], where={"previous_hash": {"$type": "string"}}),
    Index("listing", [("user_email", 1), ("name", 1)], unique=True),
)


class Keys:
    """The repository of API keys."""

    def __init__(self, database: Database) -> None:
        self.collection: Collection[KeyDocument] = database.collection("keys")
