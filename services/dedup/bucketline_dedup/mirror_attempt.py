"""One turn of one object whose content has to be fetched: as far as it gets, and when it is tried again.

A turn never holds up the bus. What it reached is kept, so the next turn begins with the blobs that are left.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from pymongo import UpdateOne

from bucketline.db.blobs import FRESH, Blobs
from bucketline.db.objects import BlobDocument, ObjectDocument, Objects
from bucketline.domain.status import Status
from bucketline.errors import DependencyUnavailable, RetryableError
from bucketline.events.models import ObjectUpdated
from bucketline.events.topics import OBJECTS
from bucketline.kafka.dead_letters import FailureContext, KafkaDeadLetters
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import RETRIES
from bucketline.service_context import ServiceContext
from bucketline_dedup.content_store import ContentBeingDeleted, LargeTransferSlot, NeedsLargeQueue
from bucketline_dedup.errors import SourceError, SourceUnavailable
from bucketline_dedup.mirror_blob import BlobMirror, failed, hash_of
from bucketline_dedup.outcomes import MirrorOutcomes, with_outcome
from bucketline_dedup.settings import DedupSettings

log = get_logger(__name__)

BLOBS_AT_ONCE = 4
STORE_PAUSE, MAX_STORE_PAUSE = 5.0, 60.0
"""Seconds until an object that waits for a store of ours gets its next turn, doubling. Its attempts are not used up."""

INTERNAL = "the content could not be stored because of an internal error"


@dataclass
class _Reached:
    """How far a turn got. ``blobs`` are in the object's order."""

    blobs: list[BlobDocument]
    away: bool = False
    large: bool = False
    transient: list[SourceUnavailable] = field(default_factory=list)


class MirrorAttempts:
    """Drives claimed objects. ``draw`` gives the jitter of the back-off, in [0, 1)."""

    def __init__(
        self,
        runtime: ServiceContext,
        objects: Objects,
        blobs: BlobMirror,
        records: Blobs,
        settling: MirrorOutcomes,
        dead_letters: KafkaDeadLetters,
        settings: DedupSettings,
        *,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._runtime = runtime
        self._objects = objects
        self._blobs = blobs
        self._records = records
        self._settling = settling
        self._dead_letters = dead_letters
        self._settings = settings
        self._draw = draw

    async def take(self, obj: ObjectDocument, room: LargeTransferSlot) -> None:
        """Mirrors what is left of a claimed object, and settles it or puts it back. Never raises for its content."""
        began = self._runtime.clock.now()
        reached = await self._mirror(obj, room)
        if self._runtime.clock.now() - began > FRESH:
            await self._renew(obj, reached)
        if any(blob["state"] == "failed" for blob in reached.blobs):
            await self._settle(obj, reached.blobs)
        elif reached.away:
            await self._postpone(obj, reached.blobs)
        elif reached.transient:
            await self._again(obj, reached)
        elif reached.large:
            await self.put_back(obj, reached.blobs, seconds=0, lane=True)
        else:
            await self._settle(obj, reached.blobs)

    async def put_back(
        self,
        obj: ObjectDocument,
        blobs: Sequence[BlobDocument] | None = None,
        *,
        seconds: float,
        lane: bool = False,
        error: str | None = None,
        postponed: int | None = None,
    ) -> None:
        """Gives the claim back; the object is due in ``seconds``. With ``error`` this counts as a failed attempt."""
        changes: dict[str, object] = {"mirror.due_at": self._runtime.clock.now() + timedelta(seconds=seconds)}
        if blobs is not None:
            changes["blobs"] = list(blobs)
        if lane:
            changes["mirror.lane"] = "large"
        if postponed is not None:
            changes["mirror.postponed"] = postponed
        if error is not None:
            changes |= {"mirror.attempts": obj["mirror"]["attempts"] + 1, "mirror.error": error}
        await self._objects.collection.bulk(
            [
                UpdateOne(
                    {
                        "_id": obj["_id"],
                        "blobs_revision": obj["blobs_revision"],
                        "mirror.claim": obj["mirror"].get("claim"),
                    },
                    {"$set": changes, "$unset": {"mirror.claim": ""}},
                )
            ]
        )

    async def _mirror(self, obj: ObjectDocument, room: LargeTransferSlot) -> _Reached:
        slots = asyncio.Semaphore(BLOBS_AT_ONCE)
        reached = _Reached(list(obj["blobs"]))

        async def one(place: int, blob: BlobDocument) -> None:
            async with slots:
                try:
                    turn = obj["mirror"].get("claim", "")
                    reached.blobs[place] = await self._blobs.mirror(obj, blob, turn, room)
                except NeedsLargeQueue:
                    reached.large = True
                except (DependencyUnavailable, ContentBeingDeleted) as error:
                    log.info("waiting for a store", object_id=obj["_id"], error=error.message)
                    reached.away = True
                except SourceUnavailable as error:
                    log.info("source away", object_id=obj["_id"], error=error.message, detail=error.detail)
                    reached.transient.append(error)
                except SourceError as error:
                    log.info("source refused", object_id=obj["_id"], error=error.message, detail=error.detail)
                    reached.blobs[place] = failed(blob, error.message)
                except Exception:
                    log.exception("a blob was not mirrored", object_id=obj["_id"], blob_id=blob["blob_id"])
                    reached.transient.append(SourceUnavailable(INTERNAL))

        async with asyncio.TaskGroup() as group:
            for place, blob in enumerate(obj["blobs"]):
                if blob["state"] == "pending":
                    group.create_task(one(place, blob))
        return reached

    async def _renew(self, obj: ObjectDocument, reached: _Reached) -> None:
        """After a long turn: what its first blobs claimed may be old by now, and is claimed again before it is said."""
        hashes = {blob["blob_id"]: hash_of(blob) for blob in reached.blobs if blob["state"] == "stored"}
        claimed = await self._records.claim(set(filter(None, hashes.values())), self._runtime.clock.now())
        for place, (old, new) in enumerate(zip(obj["blobs"], reached.blobs, strict=True)):
            if new["state"] == "stored" and old["state"] == "pending" and hash_of(new) not in claimed.held:
                reached.blobs[place] = old
                reached.away = True

    async def _again(self, obj: ObjectDocument, reached: _Reached) -> None:
        """Back-off with jitter, or as the source wishes; a dead letter once the attempts are used up."""
        attempts = obj["mirror"]["attempts"] + 1
        error = reached.transient[0]
        if attempts >= self._settings.max_attempts:
            await self._dead_letter(obj, reached, error, attempts)
            return
        RETRIES.labels("source").inc()
        longest = min(self._settings.max_backoff_seconds, self._settings.initial_backoff_seconds * 2 ** (attempts - 1))
        wish = max((e.retry_after_seconds or 0.0 for e in reached.transient), default=0.0)
        pause = max(longest * (0.5 + self._draw() / 2), wish)
        await self.put_back(obj, reached.blobs, seconds=pause, error=error.message)

    async def _postpone(self, obj: ObjectDocument, blobs: Sequence[BlobDocument]) -> None:
        """Put the object back until a store of ours may take its content; only this object waits."""
        postponed = obj["mirror"].get("postponed", 0)
        longest = min(MAX_STORE_PAUSE, STORE_PAUSE * 2 ** min(postponed, 10))
        await self.put_back(obj, blobs, seconds=longest * (0.5 + self._draw() / 2), postponed=postponed + 1)

    async def _dead_letter(
        self, obj: ObjectDocument, reached: _Reached, error: SourceUnavailable, attempts: int
    ) -> None:
        """Write a dead letter for the object; its replay starts over. The object has failed until then."""
        now = self._runtime.clock.now()
        message = f"{error.message}; given up after {attempts} attempts"
        event = ObjectUpdated(
            object_id=obj["_id"],
            bucket_id=obj["bucket_id"],
            namespace_id=obj["namespace_id"],
            revision=obj["revision"],
            blobs_changed=True,
            auto_process=obj["auto_process"],
            updated_at=obj["updated_at"],
        )
        envelope = self._runtime.seal(event, trace=obj.get("trace"))
        settings = self._runtime.settings.kafka
        reason = FailureContext(
            error=error,
            attempts=attempts,
            group=settings.group_prefix + OBJECTS.group("dedup"),
            first_at=obj["updated_at"],
            at=now,
        )
        try:
            await self._dead_letters.send_event(settings.topic_prefix + OBJECTS.name, envelope, reason)
        except RetryableError:
            await self._postpone(obj, reached.blobs)
            return
        log.error(
            "object sent to dead-letter topic",
            object_id=obj["_id"],
            attempts=attempts,
            error=error.message,
            detail=error.detail,
        )
        blobs = [failed(blob, message) if blob["state"] == "pending" else blob for blob in reached.blobs]
        settled = with_outcome({**obj, "mirror": {**obj["mirror"], "attempts": attempts}}, blobs, now)
        settled["mirror"]["dead_letter_event_id"] = envelope.id
        await self._finish(obj, settled)

    async def _settle(self, obj: ObjectDocument, blobs: list[BlobDocument]) -> None:
        settled = with_outcome(obj, blobs, self._runtime.clock.now())
        if settled["mirror"]["state"] == "done":
            twin = await self._twin(settled)
            if twin is not None:
                settled["mirror"]["duplicate_of"] = twin
            if obj["status"] == Status.FAILED:
                await self._settling.give_back(obj)
        await self._finish(obj, settled)

    async def _finish(self, obj: ObjectDocument, settled: ObjectDocument) -> None:
        until = self._runtime.clock.now() + timedelta(seconds=self._settings.lease_seconds)
        told = await self._settling.settle([settled], owing_until=until)
        try:
            await self._settling.announce(told, {})
        except RetryableError as error:
            log.warning("not announced yet", object_id=obj["_id"], error=error.message)
            return
        if told:
            await self._settling.forget_staged(obj, settled)
        await self._settling.announced(told)

    async def _twin(self, obj: ObjectDocument) -> str | None:
        """The oldest object of the bucket with the same content, under ``skip_duplicates``.

        Only where no unique key tells objects apart. Of two that are mirrored at the same moment, neither may see the
        other: then both stay.
        """
        content = obj.get("content_key")
        if not obj["skip_duplicates"] or "unique_key" in obj or content is None:
            return None
        found = await self._objects.collection.find_one(
            {"bucket_id": obj["bucket_id"], "content_key": content, "_id": {"$lt": obj["_id"]}},
            fields=["_id"],
            sort=[("_id", 1)],
        )
        return found["_id"] if found else None
