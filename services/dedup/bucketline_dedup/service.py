"""Mirroring: stores every blob of an object once, under the hash of its bytes.

Inline content is stored in bulk. Objects whose content has to be fetched are queued for the scheduler, so that the
consumer is never blocked.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from bucketline.blobs.s3 import S3BlobStore
from bucketline.clock import Clock
from bucketline.db.blobs import Blobs
from bucketline.db.mirror_queue import MirrorQueue
from bucketline.db.objects import BlobDocument, ObjectDocument
from bucketline.domain.blob_sources import InlineSource, declared_type, from_document
from bucketline.domain.media_types import safe_filename
from bucketline.domain.text_encodings import charset_of
from bucketline.errors import BucketlineError, RetryableError
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import BLOB_BYTES
from bucketline_dedup.content_store import ContentStore, StoredContent, StreamHasher
from bucketline_dedup.errors import SourceError
from bucketline_dedup.media_type import HEAD_BYTES, media_type
from bucketline_dedup.mirror import is_link_only, needs_fetching
from bucketline_dedup.outcomes import (
    MirrorOutcomes,
    Traces,
    blob_without_bytes,
    count_content,
    failed_blob,
    linked_blob,
    stored_blob,
    with_outcome,
)
from bucketline_dedup.settings import DedupSettings

log = get_logger(__name__)

THREAD_THRESHOLD_BYTES = 256 * 1024
PUT_TIMEOUT_SECONDS = 20.0
"""How long a micro-batch waits for one write. An object whose content takes longer gets an attempt of its own."""


class MirrorService:
    """Mirrors objects of events and of the queue; ``work_available`` tells the scheduler that objects were queued."""

    def __init__(
        self,
        queue: MirrorQueue,
        inline: "InlineMirror",
        outcomes: MirrorOutcomes,
        settings: DedupSettings,
        *,
        clock: Clock,
        work_available: asyncio.Event,
    ) -> None:
        self._queue = queue
        self._inline = inline
        self._outcomes = outcomes
        self._settings = settings
        self._clock = clock
        self._work_available = work_available

    async def load(self, object_ids: Sequence[str]) -> dict[str, ObjectDocument]:
        """Return the existing objects by id."""
        return await self._queue.get_many(object_ids)

    async def mirror(self, objects: Sequence[ObjectDocument], traces: Traces) -> None:
        """Mirror inline content, queue the rest, and publish the events of every finished object.

        Objects that had finished before are published again, because their record may be a redelivery after a crash.
        """
        pending = [obj for obj in objects if obj["mirror"]["state"] == "pending"]
        inline = [obj for obj in pending if not needs_fetching(obj)]
        saved = await self._mirror_inline(inline, claimed=False)
        finished = [obj for obj in objects if obj["mirror"]["state"] != "pending"]
        await self._outcomes.publish(finished + saved, traces)
        await self._enqueue([obj for obj in pending if needs_fetching(obj)])

    async def retry_dead_lettered(self, objects: Mapping[str, ObjectDocument], event_ids: Mapping[str, str]) -> None:
        """Start over with dead-lettered objects. ``event_ids`` are those of the replayed events, by object."""
        await self._queue.restart(objects, event_ids, self._clock.now())
        self._work_available.set()

    async def finish_claimed(self, objects: Sequence[ObjectDocument]) -> None:
        """Finish claimed objects that need no fetching: their event was never consumed, or theirs not published."""
        saved = await self._mirror_inline([o for o in objects if o["mirror"]["state"] == "pending"], claimed=True)
        saved += [obj for obj in objects if obj["mirror"]["state"] != "pending"]
        try:
            await self._outcomes.publish(saved)
        except RetryableError as error:
            log.warning("outcomes not published", objects=len(saved), error=error.message)
            return
        await self._outcomes.mark_published(saved)

    async def _mirror_inline(self, objects: Sequence[ObjectDocument], *, claimed: bool) -> list[ObjectDocument]:
        if not objects:
            return []
        finished, blocked = await self._inline.mirror(objects)
        now = self._clock.now()
        publish_by = now + timedelta(seconds=self._settings.lease_seconds) if claimed else None
        saved = await self._outcomes.save(finished, publish_by=publish_by) if finished else []
        if blocked:
            due_at = now + timedelta(seconds=self._settings.initial_backoff_seconds)
            await self._queue.requeue(blocked, due_at=due_at, large=self._large_objects(blocked))
            self._work_available.set()
        return saved

    async def _enqueue(self, objects: Sequence[ObjectDocument]) -> None:
        if objects:
            await self._queue.enqueue(objects, due_at=self._clock.now(), large=self._large_objects(objects))
            self._work_available.set()

    def _large_objects(self, objects: Sequence[ObjectDocument]) -> set[str]:
        """Return the objects with content that is known to be large and has to be read."""
        return {
            obj["_id"]
            for obj in objects
            for blob in obj["blobs"]
            if (source := blob["source"])
            and isinstance(size := source.get("size"), int)
            and size > self._settings.small_bytes
            and not source.get("sha256")
        }


@dataclass(frozen=True, slots=True)
class _Content(StoredContent):
    """Inline content, decoded and hashed."""

    data: bytes = field(default=b"", repr=False)


class InlineMirror:
    """Mirrors the inline content of many objects: one lookup, one PUT for each new hash, one write of records."""

    def __init__(
        self, store: S3BlobStore, contents: ContentStore, records: Blobs, settings: DedupSettings, *, clock: Clock
    ) -> None:
        self._store = store
        self._contents = contents
        self._records = records
        self._slots = asyncio.Semaphore(settings.max_concurrency)
        self._clock = clock

    async def mirror(self, objects: Sequence[ObjectDocument]) -> tuple[list[ObjectDocument], list[ObjectDocument]]:
        """Return the finished objects, not yet saved, and the objects whose content could not be stored now.

        Raises ``DependencyUnavailable`` when MongoDB or S3 as a whole does not answer. A key that S3 cannot write only
        delays the objects with that content. This can be repeated.
        """
        contents = await self._read(objects)
        by_hash = {content.sha256: content for content in contents.values() if isinstance(content, _Content)}
        forced = {
            content.sha256
            for obj in objects
            for blob in obj["blobs"]
            if blob["force"] and isinstance(content := contents.get(blob["blob_id"]), _Content)
        }
        claimed = await self._records.claim(by_hash.keys(), self._clock.now())
        new = [
            content
            for sha256, content in by_hash.items()
            if sha256 not in claimed.leaving and (sha256 not in claimed.held or sha256 in forced)
        ]
        results = await asyncio.gather(*(self._put(content, content.sha256 in forced) for content in new))
        written = {content.sha256: ours for content, ours in zip(new, results, strict=True) if ours is not None}
        if new and not written:
            await self._contents.check_store()
        rows = [content for content in new if content.sha256 in written]
        leaving = await self._records.record(rows, self._clock.now()) if rows else frozenset()
        usable = (claimed.held.keys() | written.keys()) - leaving
        first_copies = {sha256 for sha256, ours in written.items() if ours}
        finished, blocked = [], []
        for obj in objects:
            results_by_blob = [
                self._finish_blob(blob, contents.get(blob["blob_id"]), usable, first_copies) for blob in obj["blobs"]
            ]
            blobs = [blob for blob in results_by_blob if blob is not None]
            if len(blobs) == len(results_by_blob):
                finished.append(with_outcome(obj, blobs, self._clock.now()))
            else:
                blocked.append(obj)
        return finished, blocked

    def _finish_blob(
        self, blob: BlobDocument, content: _Content | SourceError | None, usable: set[str], first_copies: set[str]
    ) -> BlobDocument | None:
        """Return the blob as it is afterwards; None if its content could not be stored."""
        if blob["state"] != "pending":
            return blob
        if isinstance(content, SourceError):
            return failed_blob(blob, content.message)
        if content is None:
            return linked_blob(blob) if is_link_only(blob) else blob_without_bytes(blob)
        if content.sha256 not in usable:
            return None
        # Of several equal blobs in one micro-batch, only the first is the original.
        stored = replace(content, duplicate=content.sha256 not in first_copies)
        first_copies.discard(content.sha256)
        count_content(stored)
        return stored_blob(blob, stored, self._store)

    async def _put(self, content: _Content, force: bool) -> bool | None:
        """Return whether this call stored the content; None if it could not be stored."""
        async with self._slots:
            try:
                async with asyncio.timeout(PUT_TIMEOUT_SECONDS):
                    return await self._contents.put(content.data, content.sha256, content.mime_type, force=force)
            except BucketlineError as error:
                log.warning("content not stored", sha256=content.sha256, error=error.message)
            except TimeoutError:
                log.warning(
                    "content not stored", sha256=content.sha256, error=f"no answer in {PUT_TIMEOUT_SECONDS:g} s"
                )
            return None

    async def _read(self, objects: Sequence[ObjectDocument]) -> dict[str, _Content | SourceError]:
        """Return the pending content by blob id, hashed; in a thread if it is large."""
        sources = {
            blob["blob_id"]: (source, blob["checksum"])
            for obj in objects
            for blob in obj["blobs"]
            if blob["state"] == "pending" and isinstance(source := from_document(blob["source"] or {}), InlineSource)
        }
        size = sum(len(text) for obj in objects for blob in obj["blobs"] for text in _texts(blob))
        if size < THREAD_THRESHOLD_BYTES:
            return _read_all(sources)
        return await asyncio.to_thread(_read_all, sources)


def _texts(blob: BlobDocument) -> Iterator[str]:
    return (value for value in (blob["source"] or {}).values() if isinstance(value, str))


def _read_all(sources: Mapping[str, tuple[InlineSource, str | None]]) -> dict[str, _Content | SourceError]:
    contents: dict[str, _Content | SourceError] = {}
    for blob_id, (source, checksum) in sources.items():
        try:
            contents[blob_id] = _read_content(source, checksum)
        except SourceError as error:
            contents[blob_id] = error
    return contents


def _read_content(source: InlineSource, checksum: str | None) -> _Content:
    data = source.content()
    BLOB_BYTES.labels("hashed").inc(len(data))
    filename = safe_filename(getattr(source, "filename", None))
    declared = declared_type(source)
    mime_type = media_type(data[:HEAD_BYTES], declared=declared, filename=filename)
    sha256 = StreamHasher(checksum).hash_all(data)
    return _Content(sha256, len(data), mime_type, charset_of(declared), filename, data=data)
