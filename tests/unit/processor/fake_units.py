"""Work units in memory, with the conditions of the real repository."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from bucketline.clock import ManualClock
from bucketline.db.work_units import NO_ITEM
from bucketline.errors import DependencyUnavailable


class StoredUnits:
    """The repository as processors see it. Calls of ``dead`` owners fail, as if their process had been killed."""

    def __init__(self, clock: ManualClock) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.clock = clock
        self.unavailable = False
        self.dead: set[str] = set()

    def add(self, unit_id: str, batch_id: str | None = "btch_1", **more: Any) -> str:
        now = self.clock.now()
        self.rows[unit_id] = {
            "_id": unit_id,
            "batch_id": batch_id,
            "group": batch_id or "ns_1",
            "state": "ready",
            "created_at": now,
            "moved_at": now,
            "attempts": 0,
            "size": 1,
            **more,
        }
        return unit_id

    async def get_many(self, ids: Sequence[str], **_: Any) -> dict[str, Any]:
        self._check()
        return {unit_id: self.rows[unit_id] for unit_id in ids if unit_id in self.rows}

    async def lease(self, unit_id: str, owner: str, *, now: datetime, until: datetime) -> Any:
        self._check(owner)
        row = self.rows[unit_id]
        if row["state"] != "ready" and not (row["state"] == "leased" and row["lease"]["until"] < now):
            return None
        trying = row.get("lease", {}).get("current_item")
        row |= {
            "state": "leased",
            "lease": {"owner": owner, "until": until},
            "moved_at": now,
            "attempts": row["attempts"] + (trying != NO_ITEM),
            "release_count": row.get("release_count", 0) + (trying == NO_ITEM),
            "crashed_items": row.get("crashed_items", []) + ([] if trying in (None, NO_ITEM) else [trying]),
        }
        return dict(row)

    async def renew_leases(self, ids: Sequence[str], owner: str, *, until: datetime) -> set[str]:
        self._check(owner)
        held = {unit_id for unit_id in ids if self._owned(unit_id, owner)}
        for unit_id in held:
            self.rows[unit_id]["lease"]["until"] = until
        return held

    async def set_current_item(self, unit_id: str, owner: str, place: int) -> bool:
        self._check(owner)
        if not self._owned(unit_id, owner):
            return False
        self.rows[unit_id]["lease"]["current_item"] = place
        return True

    async def mark_idle(self, ids: Sequence[str], owner: str, *, idle: bool) -> None:
        self._check(owner)
        for unit_id in ids:
            if self._owned(unit_id, owner):
                lease = self.rows[unit_id]["lease"]
                lease.pop("current_item", None)
                lease |= {"current_item": NO_ITEM} if idle else {}

    async def release(self, unit_id: str, owner: str, *, now: datetime) -> None:
        self._check(owner)
        if self._owned(unit_id, owner):
            row = self.rows[unit_id]
            del row["lease"]
            row |= {"state": "ready", "moved_at": now, "attempts": row["attempts"] - 1}

    async def find_stalled(self, before: datetime, now: datetime, *, limit: int) -> list[Any]:
        return [
            row
            for row in self.rows.values()
            if row["moved_at"] < before
            and (row["state"] in ("ready", "canceled") or (row["state"] == "leased" and row["lease"]["until"] < now))
        ][:limit]

    async def next_of_other_groups(
        self, groups: Sequence[str], before: datetime, now: datetime, *, after: str = "", **_: Any
    ) -> Any:
        found = [
            row
            for row in await self.find_stalled(before, now, limit=len(self.rows))
            if row["state"] != "canceled" and row["group"] > after and row["group"] not in groups
        ]
        return min(found, key=lambda row: row["group"], default=None)

    def _owned(self, unit_id: str, owner: str) -> bool:
        row = self.rows[unit_id]
        return bool(row["state"] == "leased" and row["lease"]["owner"] == owner)

    def _check(self, owner: str = "") -> None:
        if self.unavailable or owner in self.dead:
            raise DependencyUnavailable("unavailable")
