"""Mirrors one object whose content has to be fetched: one attempt, read from top to bottom.

An attempt never blocks the consumer. Blobs that it mirrored are kept, so the next attempt continues with the others.
"""

import asyncio
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from urllib.parse import urlsplit

from bucketline.backoff import backoff_seconds
from bucketline.db.blobs import FRESH, Blobs
from bucketline.db.mirror_queue import MirrorQueue
from bucketline.db.objects import BlobDocument, ObjectDocument
from bucketline.domain.blob_sources import (
    PropertiesSource,
    S3Source,
    Source,
    StagedSource,
    UploadSource,
    UrlSource,
    from_document,
)
from bucketline.domain.media_types import safe_filename
from bucketline.domain.status import Status
from bucketline.errors import DependencyUnavailable, RetryableError
from bucketline.events.models import ObjectUpdated
from bucketline.events.topics import OBJECTS
from bucketline.http.ssrf import AddressRefused
from bucketline.kafka.dead_letters import FailureContext, KafkaDeadLetters
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import BLOBS, RETRIES
from bucketline.service_context import ServiceContext
from bucketline_dedup.content_store import (
    STAGING,
    ContentBeingDeleted,
    ContentStore,
    LargeTransferSlot,
    NeedsLargeQueue,
    PutRequest,
    StoredContent,
    sha256_of_checksum,
)
from bucketline_dedup.errors import ChecksumMismatch, SourceError, SourceNotFound, SourceUnavailable
from bucketline_dedup.outcomes import (
    MirrorOutcomes,
    blob_without_bytes,
    count_content,
    failed_blob,
    linked_blob,
    stored_blob,
    with_outcome,
)
from bucketline_dedup.settings import DedupSettings
from bucketline_dedup.sources import SourceOpener

log = get_logger(__name__)

MAX_CONCURRENT_BLOBS = 4
INITIAL_STORE_BACKOFF, MAX_STORE_BACKOFF = 5.0, 60.0
"""Seconds before the next attempt when our own stores are unavailable, doubling. They do not count as failures."""

EXTERNAL_KINDS = frozenset({"url", "s3", "file"})
"""Kinds of sources that stay where they are unless they are copied; we hold the content of all others."""

LOCAL_KINDS = frozenset({"text", "json", "data_uri", "base64", "properties"})
"""Kinds of sources whose content is in the object itself."""

CONTENT_URL_ATTEMPTS = 3
"""Attempts before a URL of our own content is refused: an object has its URL before its content is mirrored."""

_CONTENT_KEY = re.compile(r"blobs/sha256/([0-9a-f]{2})/([0-9a-f]{2})/(\1\2[0-9a-f]{60})")

INTERNAL_ERROR = "the content could not be stored because of an internal error"


def is_link_only(blob: BlobDocument) -> bool:
    """Return whether this blob is not copied: ``canonicalize_source`` is off, and the source is external."""
    return not blob["canonicalize"] and (blob["source"] or {}).get("kind") in EXTERNAL_KINDS


def needs_fetching(obj: ObjectDocument) -> bool:
    """Return whether a pending blob of the object is not in the object itself and has to be copied."""
    return any(
        blob["state"] == "pending" and (blob["source"] or {}).get("kind") not in LOCAL_KINDS and not is_link_only(blob)
        for blob in obj["blobs"]
    )


@dataclass
class _Progress:
    """How far an attempt got. ``blobs`` are in the object's order."""

    blobs: list[BlobDocument]
    store_unavailable: bool = False
    needs_large_queue: bool = False
    failures: list[SourceUnavailable] = field(default_factory=list)


class ObjectMirror:
    """Mirrors claimed objects. ``draw`` returns the jitter of the backoff, in [0, 1)."""

    def __init__(
        self,
        context: ServiceContext,
        queue: MirrorQueue,
        contents: ContentStore,
        opener: SourceOpener,
        records: Blobs,
        outcomes: MirrorOutcomes,
        dead_letters: KafkaDeadLetters,
        settings: DedupSettings,
        *,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._context = context
        self._queue = queue
        self._contents = contents
        self._opener = opener
        self._records = records
        self._outcomes = outcomes
        self._dead_letters = dead_letters
        self._settings = settings
        self._draw = draw

    async def run(self, obj: ObjectDocument, slot: LargeTransferSlot) -> None:
        """Mirror the pending blobs of a claimed object, then finish or reschedule it; errors of sources are handled."""
        started = self._context.clock.now()
        progress = await self._mirror_blobs(obj, slot)
        if self._context.clock.now() - started > FRESH:
            await self._claim_again(obj, progress)
        if any(blob["state"] == "failed" for blob in progress.blobs):
            await self._finish(obj, progress.blobs)
        elif progress.store_unavailable:
            await self._postpone(obj, progress.blobs)
        elif progress.failures:
            await self._retry_or_dead_letter(obj, progress)
        elif progress.needs_large_queue:
            now = self._context.clock.now()
            await self._queue.reschedule(obj, due_at=now, blobs=progress.blobs, mirror={"lane": "large"})
        else:
            await self._finish(obj, progress.blobs)

    async def _mirror_blobs(self, obj: ObjectDocument, slot: LargeTransferSlot) -> _Progress:
        semaphore = asyncio.Semaphore(MAX_CONCURRENT_BLOBS)
        progress = _Progress(list(obj["blobs"]))
        token = obj["mirror"].get("claim", "")

        async def attempt(index: int, blob: BlobDocument) -> None:
            async with semaphore:
                try:
                    progress.blobs[index] = await self.mirror_blob(obj, blob, token, slot)
                except NeedsLargeQueue:
                    progress.needs_large_queue = True
                except (DependencyUnavailable, ContentBeingDeleted) as error:
                    log.info("mirroring postponed", object_id=obj["_id"], error=error.message)
                    progress.store_unavailable = True
                except SourceUnavailable as error:
                    log.info("source unavailable", object_id=obj["_id"], error=error.message, detail=error.detail)
                    progress.failures.append(error)
                except (SourceError, AddressRefused) as error:
                    log.info("source rejected", object_id=obj["_id"], error=error.message, detail=error.detail)
                    progress.blobs[index] = failed_blob(blob, error.message)
                except Exception:
                    log.exception("blob not mirrored", object_id=obj["_id"], blob_id=blob["blob_id"])
                    progress.failures.append(SourceUnavailable(INTERNAL_ERROR))

        async with asyncio.TaskGroup() as group:
            for index, blob in enumerate(obj["blobs"]):
                if blob["state"] == "pending":
                    group.create_task(attempt(index, blob))
        return progress

    async def mirror_blob(
        self, obj: ObjectDocument, blob: BlobDocument, token: str, slot: LargeTransferSlot
    ) -> BlobDocument:
        """Return the blob as it is afterwards: stored, linked, or without bytes.

        Raises the errors of :mod:`bucketline_dedup.errors`, ``DependencyUnavailable``, ``ContentBeingDeleted`` and
        ``NeedsLargeQueue``. Staging keys contain the claim ``token``, so that it is known whose they were.
        """
        document = blob["source"] or {}
        source = from_document(document)
        if isinstance(source, PropertiesSource):
            return blob_without_bytes(blob)
        if is_link_only(blob):
            return linked_blob(blob)
        request = PutRequest(
            staging_key=f"{STAGING}/{obj['_id']}/{token}/{blob['blob_id']}",
            mime_type=_text(document.get("mime_type")),
            filename=safe_filename(_text(document.get("filename"))),
            checksum=blob["checksum"],
            force=blob["force"],
        )
        existing = await self._find_existing(obj, source, request)
        if existing is not None:
            BLOBS.labels("skipped").inc()
            return stored_blob(blob, existing, self._context.blobs)
        key = self._own_key(source, document)
        if key is not None:
            content = await self._contents.adopt_verified(key, await self._contents.head(key), request)
            if content is not None:
                count_content(content, read=False)
                return stored_blob(blob, content, self._context.blobs)
            source = StagedSource(key)
        async with self._opener.open(source, max_bytes=self._settings.max_bytes) as stream:
            content = await self._contents.store_stream(stream, request, slot)
        count_content(content)
        return stored_blob(blob, content, self._context.blobs)

    async def _find_existing(self, obj: ObjectDocument, source: Source, request: PutRequest) -> StoredContent | None:
        """Return content that need not be read: it is named by its hash, and the producer can already read it.

        Knowing a hash does not prove access to the content, so a hash counts only where the producer can read the
        content anyway: in the same bucket (``skip_duplicates``) or namespace (a URL of our content).
        """
        announced = sha256_of_checksum(request.checksum)
        key = self._context.blobs.key_of(source.url) if isinstance(source, S3Source) else None
        if own := _CONTENT_KEY.fullmatch(key or ""):
            sha256 = own[3]
            if not await self._queue.has_content(sha256, namespace_id=obj["namespace_id"]):
                if obj["mirror"]["attempts"] < CONTENT_URL_ATTEMPTS:
                    raise SourceUnavailable("the source is not stored yet", detail=sha256)
                raise AddressRefused(detail=f"no object of the namespace has {sha256}")
            if announced not in (None, sha256):
                raise ChecksumMismatch(expected=f"sha256:{announced}", actual=f"sha256:{sha256}")
            content = await self._contents.find(sha256, filename=request.filename)
            if content is None:
                raise SourceNotFound(detail=sha256)
            return content
        if not obj["skip_duplicates"] or request.force or announced is None:
            return None
        if not await self._queue.has_content(announced, bucket_id=obj["bucket_id"]):
            return None
        path = urlsplit(source.url).path if isinstance(source, UrlSource | S3Source) else None
        return await self._contents.find(announced, filename=request.filename or safe_filename(path))

    def _own_key(self, source: Source, document: Mapping[str, object]) -> str | None:
        """Return the key of a source in our own bucket; None for every other source."""
        if isinstance(source, StagedSource):
            return source.key
        if isinstance(source, UploadSource):
            return _text(document.get("key"))
        if not isinstance(source, S3Source) or (key := self._context.blobs.key_of(source.url)) is None:
            return None
        if not key.startswith(self._settings.allowed_key_prefixes):
            raise AddressRefused(detail=f"{key} is not below an allowed prefix of our bucket")
        return key

    async def _claim_again(self, obj: ObjectDocument, progress: _Progress) -> None:
        """Renew the claims on content after a long attempt; content that was deleted since is mirrored again."""
        hashes = {_sha256(blob) for blob in progress.blobs if blob["state"] == "stored"}
        claimed = await self._records.claim(set(filter(None, hashes)), self._context.clock.now())
        for index, (before, after) in enumerate(zip(obj["blobs"], progress.blobs, strict=True)):
            if after["state"] == "stored" and before["state"] == "pending" and _sha256(after) not in claimed.held:
                progress.blobs[index] = before
                progress.store_unavailable = True

    async def _retry_or_dead_letter(self, obj: ObjectDocument, progress: _Progress) -> None:
        """Reschedule with backoff and jitter, or as the source asked for; dead-letter after the last attempt."""
        attempts = obj["mirror"]["attempts"] + 1
        error = progress.failures[0]
        if attempts >= self._settings.max_attempts:
            await self._dead_letter(obj, progress, error, attempts)
            return
        RETRIES.labels("source").inc()
        backoff = backoff_seconds(
            attempts,
            initial=self._settings.initial_backoff_seconds,
            maximum=self._settings.max_backoff_seconds,
            jitter=0.5,
            draw=self._draw,
        )
        requested = max((failure.retry_after_seconds or 0.0 for failure in progress.failures), default=0.0)
        await self._queue.reschedule(
            obj,
            due_at=self._context.clock.now() + timedelta(seconds=max(backoff, requested)),
            blobs=progress.blobs,
            mirror={"attempts": attempts, "error": error.message},
        )

    async def _postpone(self, obj: ObjectDocument, blobs: list[BlobDocument]) -> None:
        """Reschedule an object until our stores can take its content; other objects do not wait."""
        postponed = obj["mirror"].get("postponed", 0)
        backoff = backoff_seconds(
            postponed + 1, initial=INITIAL_STORE_BACKOFF, maximum=MAX_STORE_BACKOFF, jitter=0.5, draw=self._draw
        )
        await self._queue.reschedule(
            obj,
            due_at=self._context.clock.now() + timedelta(seconds=backoff),
            blobs=blobs,
            mirror={"postponed": postponed + 1},
        )

    async def _dead_letter(
        self, obj: ObjectDocument, progress: _Progress, error: SourceUnavailable, attempts: int
    ) -> None:
        """Send an event of the object to the dead-letter topic and fail the object; replaying the event starts over."""
        now = self._context.clock.now()
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
        envelope = self._context.new_event(event, trace=obj.get("trace"))
        kafka = self._context.settings.kafka
        reason = FailureContext(
            error=error,
            attempts=attempts,
            group=kafka.group_prefix + OBJECTS.group("dedup"),
            first_at=obj["updated_at"],
            at=now,
        )
        try:
            await self._dead_letters.send_event(kafka.topic_prefix + OBJECTS.name, envelope, reason)
        except RetryableError:
            await self._postpone(obj, progress.blobs)
            return
        log.error(
            "object dead-lettered", object_id=obj["_id"], attempts=attempts, error=error.message, detail=error.detail
        )
        blobs = [failed_blob(blob, message) if blob["state"] == "pending" else blob for blob in progress.blobs]
        finished = with_outcome({**obj, "mirror": {**obj["mirror"], "attempts": attempts}}, blobs, now)
        finished["mirror"]["dead_letter_event_id"] = envelope.id
        await self._save_and_publish(obj, finished)

    async def _finish(self, obj: ObjectDocument, blobs: list[BlobDocument]) -> None:
        finished = with_outcome(obj, blobs, self._context.clock.now())
        if finished["mirror"]["state"] == "done":
            # A unique key distinguishes objects itself. Of two objects that are mirrored at the same moment neither may
            # see the other: then both stay.
            if obj["skip_duplicates"] and "unique_key" not in obj:
                duplicate_of = await self._queue.find_older_duplicate(finished)
                if duplicate_of is not None:
                    finished["mirror"]["duplicate_of"] = duplicate_of
            if obj["status"] == Status.FAILED:
                await self._outcomes.publish_recovery(obj)
        await self._save_and_publish(obj, finished)

    async def _save_and_publish(self, obj: ObjectDocument, finished: ObjectDocument) -> None:
        publish_by = self._context.clock.now() + timedelta(seconds=self._settings.lease_seconds)
        saved = await self._outcomes.save([finished], publish_by=publish_by)
        try:
            await self._outcomes.publish(saved)
        except RetryableError as error:
            log.warning("outcome not published", object_id=obj["_id"], error=error.message)
            return
        if saved:
            await self._outcomes.delete_staged(obj, finished)
        await self._outcomes.mark_published(saved)


def _sha256(blob: BlobDocument) -> str | None:
    return blob["details"]["hash"].removeprefix("sha256:") if blob["details"] is not None else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
