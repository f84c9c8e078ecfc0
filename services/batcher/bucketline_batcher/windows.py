"""Groups new drafts of buckets with a batching policy into windows, and windows into batches.

A draft is in one window only, by a unique index. A window accepts drafts or is closed, by compare-and-set on one
document. The id of its batch is fixed when it opens, so creating the batch is idempotent. Clocks decide when a window
closes, never what is in it. Drafts that were submitted, changed or deleted before that are left out.
"""

import time
from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, cast

from cachetools import TTLCache

from bucketline.clock import millis
from bucketline.db.batches import BatchDocument, task_of
from bucketline.db.batching_windows import BatchingWindowDocument, BatchingWindows
from bucketline.db.buckets import Batching, BucketDocument, Buckets
from bucketline.db.mongo import Database, DuplicateKey
from bucketline.db.objects import ObjectDocument
from bucketline.db.outbox_store import OutboxDocument, outbox_entry_of
from bucketline.domain.status import RANK_NEW, Status
from bucketline.errors import RetryableError
from bucketline.events.models import BatchSubmitted
from bucketline.ids import derived
from bucketline.kafka.outbox import Outbox
from bucketline.observability.metrics import SWEPT
from bucketline.service_context import ServiceContext
from bucketline_batcher.planner import FIELDS, Planner, size_of
from bucketline_batcher.settings import BatcherSettings

CACHE_SECONDS = 2.0


class BatchingPolicies:
    """Batching policies, at most ``CACHE_SECONDS`` old."""

    def __init__(self, database: Database, settings: BatcherSettings) -> None:
        self._buckets = Buckets(database)
        self._default = default_policy(settings)
        self._cache: TTLCache[str, Batching | None] = TTLCache(10_000, CACHE_SECONDS)

    async def of(self, bucket_ids: Sequence[str]) -> dict[str, Batching]:
        """The policies of those buckets that have one."""
        found = {bucket_id: self._cache[bucket_id] for bucket_id in bucket_ids if bucket_id in self._cache}
        wanted = [bucket_id for bucket_id in bucket_ids if bucket_id not in found]
        if wanted:
            rows = await self._buckets.get_many(wanted, fields=["settings", "deleting"])
            read = dict.fromkeys(wanted) | {key: policy_of(row, self._default) for key, row in rows.items()}
            self._cache.update(read)
            found |= read
        return {bucket_id: policy for bucket_id, policy in found.items() if policy is not None}

    async def buckets_after(self, bucket_id: str, *, limit: int) -> list[str]:
        """Ids of buckets that may have a policy, in order, behind ``bucket_id``."""
        return await self._buckets.ids_after(bucket_id, with_batching=self._default is None, limit=limit)


def default_policy(settings: BatcherSettings) -> Batching | None:
    """What holds for buckets without a policy of their own; None unless the settings switch it on."""
    if not settings.window_enabled:
        return None
    return {
        "max_objects": settings.window_max_objects,
        "max_bytes": settings.window_max_bytes,
        "max_wait_seconds": settings.window_max_seconds,
    }


def policy_of(bucket: BucketDocument, default: Batching | None) -> Batching | None:
    """The bucket's own policy, else the deployment's; None while the bucket is being deleted."""
    if bucket.get("deleting"):
        return None
    own = bucket["settings"].get("batching")
    return cast("Batching", own) if isinstance(own, dict) else default


ATTEMPTS = 100
"""Lost races for one bucket's window before the records are tried again as a whole."""

PAGE = 1000
"""Members of a window that are looked at at once."""

DECIDED_BY = ("auto_process", "status", "run")


class WindowDraft(NamedTuple):
    """A draft as a window sees it: which object in which version, and the bytes of its blobs."""

    member: str
    size: int


class WindowBatcher:
    """Puts drafts into windows, closes windows, and makes batches of them."""

    def __init__(self, runtime: ServiceContext, planner: Planner, outbox: Outbox, policies: BatchingPolicies) -> None:
        self._runtime = runtime
        self._clock = runtime.clock
        self._planner = planner
        self._outbox = outbox
        self._policies = policies
        self._windows = BatchingWindows(runtime.database)

    async def add_drafts(self, objects: Sequence[ObjectDocument]) -> int:
        """Puts those that are fresh drafts of buckets with a policy into windows; returns how many are in one now."""
        fresh = [obj for obj in objects if is_new_draft(obj)]
        policies = await self._policies.of(sorted({obj["bucket_id"] for obj in fresh})) if fresh else {}
        collected = 0
        for bucket_id, policy in policies.items():
            mine = [obj for obj in fresh if obj["bucket_id"] == bucket_id]
            drafts = [WindowDraft(f"{obj['_id']}:{obj['run']['id']}", size_of(obj)) for obj in mine]
            await self._add(bucket_id, mine[0]["namespace_id"], drafts, policy)
            collected += len(drafts)
        return collected

    async def close_due(self) -> int:
        """Closes windows whose time is over, and makes the batches of closed ones."""
        for window in await self._windows.find_due(self._clock.now(), limit=100):
            await self._windows.close(window["_id"], self._clock.now())
        closing = await self._windows.closing(limit=100)
        for window in closing:
            await self._submit(window["_id"])
        return len(closing)

    async def not_in_window(self, objects: Sequence[ObjectDocument]) -> list[ObjectDocument]:
        """Those that are fresh drafts and in no window."""
        fresh = {f"{obj['_id']}:{obj['run']['id']}": obj for obj in objects if is_new_draft(obj)}
        known = await self._windows.known(list(fresh)) if fresh else set()
        return [obj for member, obj in fresh.items() if member not in known]

    async def _add(self, bucket_id: str, namespace_id: str, drafts: Sequence[WindowDraft], policy: Batching) -> None:
        left = list({draft.member: draft for draft in drafts}.values())
        for _ in range(ATTEMPTS):
            window = await self._windows.open_of(bucket_id)
            # Only after the window was read: whoever joins it later changes its count, and ours is refused.
            known = await self._windows.known([draft.member for draft in left])
            left = [draft for draft in left if draft.member not in known]
            if not left:
                return
            count, size = (window["count"], window["bytes"]) if window is not None else (0, 0)
            taken = drafts_that_fit(left, policy, count=count, size=size)
            if window is not None and not taken:
                await self._close(window)
                continue
            joined = await self._join(window, bucket_id, namespace_id, taken, policy)
            if joined is None:
                continue
            left = left[len(taken) :]
            if is_full(joined, policy):
                await self._close(joined)
            if not left:
                return
        raise RetryableError("others use this bucket's window all the time")

    async def _join(
        self,
        window: BatchingWindowDocument | None,
        bucket_id: str,
        namespace_id: str,
        drafts: Sequence[WindowDraft],
        policy: Batching,
    ) -> BatchingWindowDocument | None:
        """The window with these drafts in it; None when somebody else was faster."""
        members, size = [draft.member for draft in drafts], sum(draft.size for draft in drafts)
        try:
            if window is not None:
                return await self._windows.join(window, members, size)
            now = self._clock.now()
            # Two replicas that open a window for the same draft name it the same.
            window_id = derived("unit", "window", bucket_id, members[0], millis(now))
            opened: BatchingWindowDocument = {
                "_id": window_id,
                "bucket_id": bucket_id,
                "namespace_id": namespace_id,
                "state": "open",
                "members": members,
                "count": len(members),
                "bytes": size,
                "batch_id": derived("btch", window_id),
                "opened_at": now,
                "closes_at": now + timedelta(seconds=policy["max_wait_seconds"]),
            }
            await self._windows.create(opened)
        except DuplicateKey:
            return None
        return opened

    async def _close(self, window: BatchingWindowDocument) -> None:
        if await self._windows.close(window["_id"], self._clock.now(), count=window["count"]):
            await self._submit(window["_id"])

    async def _submit(self, window_id: str) -> None:
        """Makes the batch of a closed window, submitted, if it is not there yet."""
        window = await self._windows.get_by_id(window_id)
        if window is None or window["state"] != "closing":
            return
        at = window.get("closed_at", window["closes_at"])
        objects = await self._undecided(window["members"])
        if not objects:
            await self._windows.finish(window_id)
            return
        event = BatchSubmitted(
            batch_id=window["batch_id"],
            bucket_id=window["bucket_id"],
            namespace_id=window["namespace_id"],
            object_count=len(objects),
            submitted_at=at,
        )
        batch: BatchDocument = {
            "_id": window["batch_id"],
            "namespace_id": window["namespace_id"],
            "bucket_id": window["bucket_id"],
            "batch_name": None,
            "status": str(Status.PENDING),
            "objects": objects,
            "total": len(objects),
            "collection_ids": None,
            "dedup_strategy": "skip",
            "metadata": {},
            "task_id": task_of(window["batch_id"]),
            "auto": False,
            "run": millis(at),
            "created_at": at,
            "updated_at": at,
            "submitted_at": at,
            "moved_at": at,
            "pending": [cast("OutboxDocument", self._runtime.new_event(event).to_document())],
            "pending_since": at,
        }
        try:
            await self._planner.batches.create(batch)
        except DuplicateKey:
            # Whoever made it first has said what is in it; others may have found more or fewer undecided.
            await self._windows.finish(window_id)
            return
        await self._windows.finish(window_id)
        self._outbox.enqueue([outbox_entry_of(batch)])

    async def _undecided(self, members: Sequence[str]) -> list[str]:
        """The objects of those drafts that nobody has decided about since they joined."""
        kept: dict[str, None] = {}
        for start in range(0, len(members), PAGE):
            page = [member.rpartition(":") for member in members[start : start + PAGE]]
            found = await self._planner.objects.get_many([object_id for object_id, _, _ in page], fields=DECIDED_BY)
            for object_id, _, run in page:
                obj = found.get(object_id)
                if obj is not None and is_undecided(obj) and str(obj["run"]["id"]) == run:
                    kept[object_id] = None
        return list(kept)


def is_new_draft(obj: ObjectDocument) -> bool:
    """Whether nobody has decided about the object yet: a mirrored draft that was in no run since it was written.

    What a cancellation gave back is a draft too, but not one that starts by itself again.
    """
    return is_undecided(obj) and obj["mirror"]["state"] != "pending"


def is_undecided(obj: ObjectDocument) -> bool:
    """The same of an object that may be about to be mirrored."""
    return not obj["auto_process"] and obj["status"] == Status.DRAFT and obj["run"]["rank"] == RANK_NEW


def drafts_that_fit(drafts: Sequence[WindowDraft], policy: Batching, *, count: int, size: int) -> list[WindowDraft]:
    """The first drafts that fit into a window that has ``count`` and ``size``. One too large by itself fits alone."""
    taken: list[WindowDraft] = []
    for draft in drafts:
        if count >= policy["max_objects"] or (count and size + draft.size > policy["max_bytes"]):
            break
        taken.append(draft)
        count += 1
        size += draft.size
    return taken


def is_full(window: BatchingWindowDocument, policy: Batching) -> bool:
    return window["count"] >= policy["max_objects"] or window["bytes"] >= policy["max_bytes"]


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
                collected += await self._scan(place)
                continue
            try:
                self._line.extend(await self._next_buckets())
            finally:
                self._line.append(None)
            if len(self._line) == 1:
                break
        SWEPT.labels("draft without window").inc(collected)
        return collected

    async def _next_buckets(self) -> list[ScanCursor]:
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

    async def _scan(self, place: ScanCursor) -> int:
        """One page; the bucket goes to the end of the line if there may be more, or if this did not succeed."""
        following: ScanCursor | None = place
        try:
            page = await self._drafts(place)
            collected = await self._windowing.add_drafts(await self._windowing.not_in_window(page))
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
