"""A lease queue in a MongoDB collection: entries are claimed, renewed, released, rescheduled and finished.

An entry is due once its ``due_at`` has passed. To claim it, a worker stores its token as the owner and moves ``due_at``
to the end of the lease, like the visibility timeout of a message queue: an entry whose owner died becomes due by
itself. Each later write of the owner is conditional on its token, so an owner that lost its lease changes nothing.
Delivery is at least once. An entry that is claimed without an end is never offered again: at most once.

The queue is stored in the documents themselves: :class:`LeaseFields` names the fields. Five queues are built on it:
mirroring (``Objects``), work units (``WorkUnits``), tasks (``Tasks``), webhook calls of batches (``Batches``) and
webhook deliveries (``WebhookDeliveries``). Pauses between attempts come from
:func:`bucketline.backoff.backoff_seconds`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from pymongo import UpdateMany, UpdateOne

from bucketline.db.mongo import Collection, Filter

D = TypeVar("D", bound=Mapping[str, Any])

Changes = Mapping[str, Mapping[str, object]]
"""Update operators and their fields."""


@dataclass(frozen=True)
class LeaseFields:
    """Paths of the fields of an entry.

    ``owner`` holds the token of the current lease and ``due_at`` the time from which the entry may be claimed. Every
    entry meets ``within``. Entries that meet ``unleased`` are due at any time, so that workers on machines whose
    clocks are behind may claim them. ``lease`` is the subdocument of the two fields, if the end of a
    lease removes it as a whole.
    """

    owner: str
    due_at: str
    within: Filter = field(default_factory=dict)
    unleased: Filter | None = None
    lease: str | None = None


class LeaseQueue(Generic[D]):
    """The entries of one queue."""

    def __init__(self, collection: Collection[D], fields: LeaseFields) -> None:
        self._collection = collection
        self._fields = fields

    def due_filter(self, now: datetime) -> dict[str, object]:
        """Return the condition of entries that may be claimed."""
        expired: dict[str, object] = {self._fields.due_at: {"$lte": now}}
        if self._fields.unleased is None:
            return {**self._fields.within, **expired}
        return {**self._fields.within, "$or": [self._fields.unleased, expired]}

    def held_filter(self, owner: str | None) -> dict[str, object]:
        """Return the condition of entries that this owner holds."""
        return {**self._fields.within, self._fields.owner: owner}

    async def find_due(
        self,
        now: datetime,
        *,
        limit: int,
        where: Filter | None = None,
        fields: Sequence[str] | None = None,
        without: Sequence[str] = (),
    ) -> list[D]:
        """Return entries that may be claimed, the longest overdue first."""
        return await self._collection.find(
            {**(where or {}), **self.due_filter(now)},
            limit=limit,
            sort=[(self._fields.due_at, 1)],
            fields=fields,
            without=without,
        )

    async def count_due(self, now: datetime, *, limit: int, where: Filter | None = None) -> int:
        """Return how many entries may be claimed, at most ``limit``."""
        return await self._collection.count({**(where or {}), **self.due_filter(now)}, limit=limit)

    async def claim(
        self, entry_id: str, owner: str, *, now: datetime, until: datetime, fields: Mapping[str, object]
    ) -> D | None:
        """Claim one entry and return it as it is afterwards; None if it is leased or not in the queue.

        ``fields`` are set in the same write: expressions, which see the entry as it was before.
        """
        lease = {self._fields.owner: {"$literal": owner}, self._fields.due_at: until}
        return await self._collection.find_and_update(
            {"_id": entry_id, **self.due_filter(now)}, [{"$set": {**fields, **lease}}]
        )

    async def claim_many(
        self,
        entries: Sequence[D],
        owner: str,
        *,
        until: datetime | None,
        unchanged: Sequence[str] = (),
        fields: Mapping[str, object] | None = None,
    ) -> set[str]:
        """Claim entries that :meth:`find_due` returned, in one round trip; return the ids of those that were claimed.

        ``owner`` must be a new token for each call. Entries that another worker claimed since they were read, or whose
        fields ``unchanged`` are not as they were, are left alone. With ``until`` None they leave the queue for good.
        """
        changes: dict[str, dict[str, object]] = {"$set": {**(fields or {}), self._fields.owner: owner}}
        if until is None:
            changes["$unset"] = {self._fields.due_at: ""}
        else:
            changes["$set"][self._fields.due_at] = until
        writes = [
            UpdateOne(
                {"_id": entry["_id"], **{path: _value(entry, path) for path in (self._fields.due_at, *unchanged)}},
                changes,
            )
            for entry in entries
        ]
        ids = {str(entry["_id"]) for entry in entries}
        if (await self._collection.bulk(writes)).matched == len(entries):
            return ids
        return await self._held(ids, owner)

    async def renew(self, owners: Mapping[str, str], *, until: datetime) -> set[str]:
        """Extend leases, given as entry → owner; return the entries that these owners still hold."""
        by_owner: dict[str, list[str]] = {}
        for entry_id, owner in owners.items():
            by_owner.setdefault(owner, []).append(entry_id)
        extended = {"$set": {self._fields.due_at: until}}
        outcome = await self._collection.bulk(
            [UpdateMany({"_id": {"$in": ids}, **self.held_filter(owner)}, extended) for owner, ids in by_owner.items()]
        )
        if outcome.matched == len(owners):
            return set(owners)
        held: set[str] = set()
        for owner, ids in by_owner.items():
            held |= await self._held(set(ids), owner)
        return held

    async def update_held(self, entry_ids: Sequence[str], owner: str, changes: Changes) -> int:
        """Change entries that this owner holds; return how many were changed."""
        return await self._collection.update_many({"_id": {"$in": list(entry_ids)}, **self.held_filter(owner)}, changes)

    async def release(self, entry_id: str, owner: str | None, *, changes: Changes, where: Filter | None = None) -> bool:
        """End the lease and remove the due time; return False, and change nothing, if the lease was lost.

        The entry is finished or, in a queue with ``unleased`` entries, due at once.
        """
        return await self._end(entry_id, owner, None, changes, where)

    async def reschedule(
        self,
        entry_id: str,
        owner: str | None,
        *,
        due_at: datetime,
        changes: Changes,
        where: Filter | None = None,
    ) -> bool:
        """End the lease; the entry is due again at ``due_at``. Return False, and change nothing, if it was lost."""
        return await self._end(entry_id, owner, due_at, changes, where)

    async def give_up(self, entry_id: str, *, now: datetime, changes: Changes, where: Filter) -> bool:
        """Change an entry that meets ``where`` and that no worker holds; return whether it was changed."""
        return await self._collection.update_one({"_id": entry_id, **where, **self.due_filter(now)}, changes)

    async def _end(
        self, entry_id: str, owner: str | None, due_at: datetime | None, changes: Changes, where: Filter | None
    ) -> bool:
        update = {operator: dict(fields) for operator, fields in changes.items()}
        removed = [self._fields.lease] if self._fields.lease else [self._fields.owner]
        if due_at is not None:
            update.setdefault("$set", {})[self._fields.due_at] = due_at
        elif not self._fields.lease:
            removed.append(self._fields.due_at)
        update.setdefault("$unset", {}).update(dict.fromkeys(removed, ""))
        return await self._collection.update_one({"_id": entry_id, **(where or {}), **self.held_filter(owner)}, update)

    async def _held(self, ids: set[str], owner: str) -> set[str]:
        rows = await self._collection.find(
            {"_id": {"$in": list(ids)}, **self.held_filter(owner)}, limit=len(ids), fields=["_id"]
        )
        return {str(row["_id"]) for row in rows}


def _value(entry: Mapping[str, Any], path: str) -> object:
    value: Any = entry
    for name in path.split("."):
        value = value[name] if value is not None and name in value else None
    return value
