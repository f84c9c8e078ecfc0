"""Blobs: the content we hold, one record a hash."""

from datetime import datetime
from typing import Literal, NotRequired, TypedDict

from bucketline.storage.mongo import Collection, Database, Index


class BlobRecord(TypedDict):
    """Stored content. ``_id`` is its SHA-256 in hex. ``touched_at`` moves whenever an object starts to refer to it."""

    _id: str
    key: str
    size_bytes: int
    mime_type: str
    created_at: datetime
    touched_at: datetime
    state: Literal["live", "deleting"]
    checked_at: NotRequired[datetime]


INDEXES = (Index("age", [("touched_at", 1), ("_id", 1)]),)


class Blobs:
    """The repository of stored content."""

    def __init__(self, database: Database) -> None:
        self.collection: Collection[BlobRecord] = database.collection("blobs")


def blob_key(sha256: str) -> str:
    """Where content of this hash (hex) is stored: ``blobs/sha256/ab/cd/<hex>``."""
    return f"blobs/sha256/{sha256[:2]}/{sha256[2:4]}/{sha256}"
