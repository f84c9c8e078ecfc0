"""Removals: the durable intent to delete one object, kept until everything that hangs on it is gone and said.

Written before anything is deleted. Whoever finds one that is old finishes it: each step may be done again.
"""

from datetime import datetime
from typing import NotRequired, TypedDict

from bucketline.storage.mongo import Collection, Database, Index
from bucketline.storage.pending import PendingDocument, PendingStore


class RemovalDocument(TypedDict):
    """``_id`` is the object's id. ``pending`` holds its ``object.deleted`` event once the object is gone."""

    _id: str
    bucket_id: str
    namespace_id: str
    created_at: datetime
    event: PendingDocument
    pending: NotRequired[list[PendingDocument]]
    pending_since: NotRequired[datetime]


INDEXES = (
    Index("age", [("created_at", 1)]),
    Index("outbox", [("pending_since", 1)], where={"pending_since": {"$exists": True}}),
)


class Removals:
    """The repository of removals."""

    def __init__(self, database: Database) -> None:
        self.collection: Collection[RemovalDocument] = database.collection("removals")
        self.outbox = PendingStore(database.collection("removals"))
