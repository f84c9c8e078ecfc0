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
        """Return the policies of those buckets that have one."""
        found = {bucket_id: self._cache[bucket_id] for bucket_id in bucket_ids if bucket_id in self._cache}
        wanted = [bucket_id for bucket_id in bucket_ids if bucket_id not in found]
        if wanted:
            rows = await self._buckets.get_many(wanted, fields=["settings", "deleting"])
            read = dict.fromkeys(wanted) | {key: policy_of(row, self._default) for key, row in rows.items()}
            self._cache.update(read)
            found |= read
        return {bucket_id: policy for bucket_id, policy in found.items() if policy is not None}

    async def buckets_after(self, bucket_id: str, *, limit: int) -> list[str]:
        """Return the ids of buckets that may have a policy, in order, after ``bucket_id``."""
        return await self._buckets.ids_after(bucket_id, with_batching=self._default is None, limit=limit)


def default_policy(settings: BatcherSettings) -> Batching | None:
    """Return the policy of buckets without their own, or None if the settings do not enable one."""
    if not settings.window_enabled:
        return None
    return {
        "max_objects": settings.window_max_objects,
        "max_bytes": settings.window_max_bytes,
        "max_wait_seconds": settings.window_max_seconds,
    }


def policy_of(bucket: BucketDocument, default: Batching | None) -> Batching | None:
    """Return the bucket's policy, or ``default`` if it has none; None while the bucket is being deleted."""
    if bucket.get("deleting"):
        return None
    own = bucket["settings"].get("batching")
    return cast("Batching", own) if isinstance(own, dict) else default


ATTEMPTS = 100
"""Lost races for the window of one bucket before all records are retried."""

PAGE_SIZE = 1000
"""Number of members that are read at once."""

DECIDED_BY = ("auto_process", "status", "run")


class WindowDraft(NamedTuple):
    """A draft in a window: ``<object_id>:<run_id>`` and the bytes of its blobs."""

    member: str
    size: int


class WindowBatcher:
    """Adds drafts to windows, closes windows and submits their batches."""

    def __init__(self, context: ServiceContext, planner: Planner, outbox: Outbox, policies: BatchingPolicies) -> None:
        self._context = context
        self._clock = context.clock
        self._planner = planner
        self._outbox = outbox
        self._policies = policies
        self._windows = BatchingWindows(context.database)

    async def add_drafts(self, objects: Sequence[ObjectDocument]) -> int:
        """Add new drafts in buckets with a policy to windows, and return how many are in one now."""
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
        """Close windows that are due and submit the batches of closed ones. Return how many were submitted."""
        for window in await self._windows.find_due(self._clock.now(), limit=100):
            await self._windows.close(window["_id"], self._clock.now())
        closing = await self._windows.closing(limit=100)
        for window in closing:
            await self._submit(window["_id"])
        return len(closing)

    async def not_in_window(self, objects: Sequence[ObjectDocument]) -> list[ObjectDocument]:
        """Return the new drafts that are in no window."""
        fresh = {f"{obj['_id']}:{obj['run']['id']}": obj for obj in objects if is_new_draft(obj)}
        known = await self._windows.known(list(fresh)) if fresh else set()
        return [obj for member, obj in fresh.items() if member not in known]

    async def _add(self, bucket_id: str, namespace_id: str, drafts: Sequence[WindowDraft], policy: Batching) -> None:
        left = list({draft.member: draft for draft in drafts}.values())
        for _ in range(ATTEMPTS):
            window = await self._windows.open_of(bucket_id)
            # Read after the window: a draft that is added later changes the count, and our compare-and-set fails.
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
        """Open or extend a window with these drafts and return it; None if another replica was faster."""
        members, size = [draft.member for draft in drafts], sum(draft.size for draft in drafts)
        try:
            if window is not None:
                return await self._windows.join(window, members, size)
            now = self._clock.now()
            # Two replicas that open a window for the same draft derive the same id.
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
        """Create the submitted batch of a closed window, unless it exists."""
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
            "pending": [cast("OutboxDocument", self._context.new_event(event).to_document())],
            "pending_since": at,
        }
        try:
            await self._planner.batches.create(batch)
        except DuplicateKey:
            # Another replica created it, possibly with other objects.
            await self._windows.finish(window_id)
            return
        await self._windows.finish(window_id)
        self._outbox.enqueue([outbox_entry_of(batch)])

    async def _undecided(self, members: Sequence[str]) -> list[str]:
        """Return the objects that are still the new drafts that were added to the window."""
        kept: dict[str, None] = {}
        for start in range(0, len(members), PAGE_SIZE):
            page = [member.rpartition(":") for member in members[start : start + PAGE_SIZE]]
            found = await self._planner.objects.get_many([object_id for object_id, _, _ in page], fields=DECIDED_BY)
            for object_id, _, run in page:
                obj = found.get(object_id)
                if obj is not None and is_undecided(obj) and str(obj["run"]["id"]) == run:
                    kept[object_id] = None
        return list(kept)


def is_new_draft(obj: ObjectDocument) -> bool:
    """Return whether the object is a mirrored draft without a run since it was written.

    A draft that a cancellation returned is not new: it is not started again automatically.
    """
    return is_undecided(obj) and obj["mirror"]["state"] != "pending"


def is_undecided(obj: ObjectDocument) -> bool:
    """Return the same without regard to mirroring."""
    return not obj["auto_process"] and obj["status"] == Status.DRAFT and obj["run"]["rank"] == RANK_NEW


def drafts_that_fit(drafts: Sequence[WindowDraft], policy: Batching, *, count: int, size: int) -> list[WindowDraft]:
    """Return the first drafts that fit into a window of ``count`` and ``size``. One that is too large fits alone."""
    taken: list[WindowDraft] = []
    for draft in drafts:
        if count >= policy["max_objects"] or (count and size + draft.size > policy["max_bytes"]):
            break
        taken.append(draft)
        count += 1
        size += draft.size
    return taken


def is_full(window: BatchingWindowDocument, policy: Batching) -> bool:
    """Return whether the window has reached a limit of the policy."""
    return window["count"] >= policy["max_objects"] or window["bytes"] >= policy["max_bytes"]


STEP_SECONDS = 1.0
"""Maximum duration of a step. The next step continues where it stopped."""

BUCKETS_PER_PAGE = 50
"""Number of buckets that are queued at once."""

MAX_BUCKETS = 1000
"""Maximum number of queued buckets."""


class ScanCursor(NamedTuple):
    """A position in a bucket: after the draft with this creation time and id."""

    bucket_id: str
    after: tuple[datetime, str] | None = None


class DraftScanner:
    """Scans buckets with a policy, in turns, for drafts in no window. The queue is kept in memory only."""

    def __init__(
        self, context: ServiceContext, planner: Planner, windowing: WindowBatcher, policies: BatchingPolicies
    ) -> None:
        self._clock = context.clock
        self._objects = planner.objects
        self._windowing = windowing
        self._policies = policies
        self._limit = context.settings.reconcile.batch_size
        self._settled = timedelta(seconds=context.settings.reconcile.stale_after_seconds)
        # None marks the end of a round: more buckets may be queued there.
        self._queue: deque[ScanCursor | None] = deque([None])
        self._last_bucket = ""
        self._next_lap: datetime | None = None

    async def step(self) -> int:
        """Scan for about :data:`STEP_SECONDS` and return how many drafts were added to windows."""
        ends = time.monotonic() + STEP_SECONDS
        collected = 0
        while time.monotonic() < ends:
            cursor = self._queue.popleft()
            if cursor is not None:
                collected += await self._scan(cursor)
                continue
            try:
                self._queue.extend(await self._next_buckets())
            finally:
                self._queue.append(None)
            if len(self._queue) == 1:
                break
        SWEPT.labels("draft without window").inc(collected)
        return collected

    async def _next_buckets(self) -> list[ScanCursor]:
        """Return the next buckets. A lap does not start before drafts had time to get into windows by event."""
        if len(self._queue) >= MAX_BUCKETS:
            return []
        if not self._last_bucket:
            now = self._clock.now()
            if self._next_lap is not None and now < self._next_lap:
                return []
            self._next_lap = now + self._settled
        ids = await self._policies.buckets_after(self._last_bucket, limit=BUCKETS_PER_PAGE)
        self._last_bucket = ids[-1] if len(ids) == BUCKETS_PER_PAGE else ""
        queued = {cursor.bucket_id for cursor in self._queue if cursor is not None}
        return [ScanCursor(bucket_id) for bucket_id in ids if bucket_id not in queued]

    async def _scan(self, cursor: ScanCursor) -> int:
        """Scan one page. The bucket is queued again if it may have more drafts, or after an error."""
        following: ScanCursor | None = cursor
        try:
            page = await self._drafts(cursor)
            collected = await self._windowing.add_drafts(await self._windowing.not_in_window(page))
            last = (page[-1]["created_at"], page[-1]["_id"]) if len(page) == self._limit else None
            following = ScanCursor(cursor.bucket_id, last) if last else None
        finally:
            if following is not None:
                self._queue.append(following)
        return collected

    async def _drafts(self, cursor: ScanCursor) -> list[ObjectDocument]:
        """Return new drafts of the bucket, oldest first, that had time to get into a window by event."""
        created: dict[str, object] = {"$lt": self._clock.now() - self._settled}
        where: dict[str, object] = {
            "bucket_id": cursor.bucket_id,
            "status": str(Status.DRAFT),
            "run.rank": RANK_NEW,
            "created_at": created,
        }
        if cursor.after is not None:
            created["$gte"] = cursor.after[0]
            where["$or"] = [{"created_at": {"$gt": cursor.after[0]}}, {"_id": {"$gt": cursor.after[1]}}]
        return await self._objects.search(where, limit=self._limit, sort=[("created_at", 1), ("_id", 1)], fields=FIELDS)
