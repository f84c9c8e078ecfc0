"""Mirroring: every blob of an object gets into our S3 under the hash of its bytes, once.

What came with its object is dealt with at once, in bulk. What has to be fetched is made due and left to the lanes, so
that the bus goes on.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from pymongo import UpdateOne

from bucketline.db.objects import BlobDocument, Mirror, ObjectDocument, Objects
from bucketline.errors import RetryableError
from bucketline.observability.logging import get_logger
from bucketline.service_context import ServiceContext
from bucketline_dedup.mirror_attempt import MirrorAttempts
from bucketline_dedup.mirror_inline import InlineMirror, is_inline
from bucketline_dedup.outcomes import MirrorOutcomes, Traces
from bucketline_dedup.scheduler import MirrorScheduler
from bucketline_dedup.settings import DedupSettings

log = get_logger(__name__)


class MirrorService:
    """The use case behind the records, and the lanes behind it."""

    def __init__(
        self,
        runtime: ServiceContext,
        objects: Objects,
        inline: InlineMirror,
        settling: MirrorOutcomes,
        turns: MirrorAttempts,
        settings: DedupSettings,
    ) -> None:
        self._runtime = runtime
        self._inline = inline
        self._settling = settling
        self._settings = settings
        self.objects = objects
        self.lanes = MirrorScheduler(runtime, objects, turns, self._swept, settings)

    async def mirror(self, objects: Sequence[ObjectDocument], traces: Traces) -> None:
        """Mirrors inline content, leaves the rest to the lanes, and announces every object that is settled.

        An object that is settled already is announced again: its record may have come for want of that.
        """
        pending = [obj for obj in objects if obj["mirror"]["state"] == "pending"]
        inline = [obj for obj in pending if is_inline(obj)]
        told = await self._settle_inline(inline, owing=False)
        settled = [obj for obj in objects if obj["mirror"]["state"] != "pending"]
        await self._settling.announce(settled + told, traces)
        await self._leave_to_lanes([obj for obj in pending if not is_inline(obj)])

    async def redrive(self, objects: Sequence[ObjectDocument], dead_letters: Mapping[str, str]) -> None:
        """Mirror dead-lettered objects again. ``dead_letters`` maps them to the id of the replayed event."""
        now = self._runtime.clock.now()
        fresh: Mirror = {"state": "pending", "attempts": 0, "due_at": now}
        await self.objects.collection.bulk(
            [
                UpdateOne(
                    {
                        "_id": obj["_id"],
                        "blobs_revision": obj["blobs_revision"],
                        "mirror.state": "failed",
                        "mirror.dead_letter_event_id": dead_letters[obj["_id"]],
                    },
                    {"$set": {"mirror": fresh, "blobs": [_anew(blob) for blob in obj["blobs"]]}},
                )
                for obj in objects
            ]
        )
        self.lanes.wake()

    async def _settle_inline(self, objects: Sequence[ObjectDocument], *, owing: bool) -> list[ObjectDocument]:
        if not objects:
            return []
        done, blocked = await self._inline.mirror(objects)
        until = self._runtime.clock.now() + timedelta(seconds=self._settings.lease_seconds)
        told = await self._settling.settle(done, owing_until=until if owing else None) if done else []
        if blocked:
            await self._leave_to_lanes(blocked, blocked=True)
        return told

    async def _leave_to_lanes(self, objects: Sequence[ObjectDocument], *, blocked: bool = False) -> None:
        """Makes objects due. One that is being worked on, or that was changed, is left alone.

        ``blocked`` objects get turns of their own, which end, although there is nothing to fetch for them.
        """
        if not objects:
            return
        due = self._runtime.clock.now() + timedelta(seconds=self._settings.initial_backoff_seconds if blocked else 0)
        await self.objects.collection.bulk(
            [
                UpdateOne(
                    {
                        "_id": obj["_id"],
                        "blobs_revision": obj["blobs_revision"],
                        "mirror.state": "pending",
                        "mirror.claim": obj["mirror"].get("claim") if blocked else None,
                    },
                    {
                        "$set": {"mirror.due_at": due, **self._lane(obj)},
                        "$max": {"mirror.attempts": 1 if blocked else 0},
                        "$unset": {"mirror.claim": ""},
                    },
                )
                for obj in objects
            ]
        )
        self.lanes.wake()

    def _lane(self, obj: ObjectDocument) -> dict[str, str]:
        """Content that is known to be large, and to need reading, begins in the large lane."""
        for blob in obj["blobs"]:
            source = blob["source"] or {}
            size = source.get("size")
            if isinstance(size, int) and size > self._settings.small_bytes and not source.get("sha256"):
                return {"mirror.lane": "large"}
        return {}

    async def _swept(self, objects: Sequence[ObjectDocument]) -> None:
        """Claimed objects that need no fetching: records that never came, and events that were not published."""
        told = await self._settle_inline([o for o in objects if o["mirror"]["state"] == "pending"], owing=True)
        told += [obj for obj in objects if obj["mirror"]["state"] != "pending"]
        try:
            await self._settling.announce(told, {})
        except RetryableError as error:
            log.warning("not announced yet", objects=len(told), error=error.message)
            return
        await self._settling.announced(told)


def _anew(blob: BlobDocument) -> BlobDocument:
    """A failed blob is fetched again; the others stay as they are."""
    if blob["state"] != "failed" or blob["source"] is None:
        return blob
    return {**blob, "state": "pending", "error": None}
