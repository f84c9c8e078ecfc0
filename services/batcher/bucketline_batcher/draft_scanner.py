"""Drafts that no window has although their bucket has a policy: older than the policy, or their event was lost.

A lap looks at every bucket with a policy. Buckets take turns, a page of drafts each, so that one with a million of them
holds up nobody. What a cancellation gave back is not looked at: it does not start by itself again.
"""

import time
from collections import deque
from datetime import datetime, timedelta
from typing import NamedTuple

from bucketline.db.objects import ObjectDocument
from bucketline.domain.status import RANK_NEW, Status
from bucketline.observability.metrics import SWEPT
from bucketline.service_context import ServiceContext
from bucketline_batcher.batching_policies import BatchingPolicies
from bucketline_batcher.planner import FIELDS, Planner
from bucketline_batcher.windows import WindowBatcher

STEP_SECONDS = 1.0
"""After so long a step ends, and the next one goes on."""

BUCKETS = 50
"""Buckets that join the line at once."""

MAX_BUCKETS = 1000
"""Buckets in line; while there are so many with drafts left, no more join."""


class ScanCursor(NamedTuple):
    """Where to go on in a bucket: behind a draft, by the time of its creation and its id."""

    bucket_id: str
    after: tuple[datetime, str] | None = None


class DraftScanner:
    """Goes round the buckets. The line is kept in memory, so that looking writes nothing."""

    def __init__(
        self, runtime: ServiceContext, planner: Planner, windowing: WindowBatcher, policies: BatchingPolicies
    ) -> None:
        self._clock = runtime.clock
        self._objects = planner.objects
        self._windowing = windowing
        self._policies = policies
        self._limit = runtime.settings.reconcile.batch_size
        self._settled = timedelta(seconds=runtime.settings.reconcile.stale_after_seconds)
        # None stands where those that were in line have had their turn, and others may join.
        self._line: deque[ScanCursor | None] = deque([None])
        self._joined = ""
        self._next_lap: datetime | None = None

    async def step(self) -> int:
        """Looks at drafts for about :data:`STEP_SECONDS`; returns how many it put into windows."""
        ends = time.monotonic() + STEP_SECONDS
        collected = 0
        while time.monotonic() < ends:
            place = self._line.popleft()
            if place is not None:
                collected += await self._look(place)
                continue
            try:
                self._line.extend(await self._joining())
            finally:
                self._line.append(None)
            if len(self._line) == 1:
                break
        SWEPT.labels("draft without window").inc(collected)
        return collected

    async def _joining(self) -> list[ScanCursor]:
        """The next buckets of the lap. A lap does not begin sooner than drafts need to get into windows."""
        if len(self._line) >= MAX_BUCKETS:
            return []
        if not self._joined:
            now = self._clock.now()
            if self._next_lap is not None and now < self._next_lap:
                return []
            self._next_lap = now + self._settled
        ids = await self._policies.buckets_after(self._joined, limit=BUCKETS)
        self._joined = ids[-1] if len(ids) == BUCKETS else ""
        in_line = {place.bucket_id for place in self._line if place is not None}
        return [ScanCursor(bucket_id) for bucket_id in ids if bucket_id not in in_line]

    async def _look(self, place: ScanCursor) -> int:
        """One page; the bucket goes to the end of the line if there may be more, or if this did not succeed."""
        following: ScanCursor | None = place
        try:
            page = await self._drafts(place)
            collected = await self._windowing.collect(await self._windowing.missed(page))
            last = (page[-1]["created_at"], page[-1]["_id"]) if len(page) == self._limit else None
            following = ScanCursor(place.bucket_id, last) if last else None
        finally:
            if following is not None:
                self._line.append(following)
        return collected

    async def _drafts(self, place: ScanCursor) -> list[ObjectDocument]:
        """Drafts of the bucket that nobody decided about, the oldest first, which have had time to join a window."""
        created: dict[str, object] = {"$lt": self._clock.now() - self._settled}
        where: dict[str, object] = {
            "bucket_id": place.bucket_id,
            "status": str(Status.DRAFT),
            "run.rank": RANK_NEW,
            "created_at": created,
        }
        if place.after is not None:
            created["$gte"] = place.after[0]
            where["$or"] = [{"created_at": {"$gt": place.after[0]}}, {"_id": {"$gt": place.after[1]}}]
        return await self._objects.search(where, limit=self._limit, sort=[("created_at", 1), ("_id", 1)], fields=FIELDS)
