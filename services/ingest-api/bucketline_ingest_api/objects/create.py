"""Creating one object: new, or by policy into the one that has its key, or not at all because it was sent before."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, cast

from bucketline.db.buckets import BucketDocument
from bucketline.db.objects import ObjectDocument
from bucketline.db.outbox_store import OutboxDocument, OutboxEntry
from bucketline.domain.insertion_policy import Policy, key_not_found, key_taken, resolve_policy
from bucketline.domain.status import Status
from bucketline.errors import ApiError, ServiceUnavailable
from bucketline.events.cloudevents import CloudEvent
from bucketline.events.models import ObjectCreated
from bucketline.observability.metrics import OBJECTS
from bucketline.observability.tracing import current_trace
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.auto_process import submit_auto_batches
from bucketline_ingest_api.objects.schemas import CreateObject
from bucketline_ingest_api.objects.staging import Staging, attach_uploads
from bucketline_ingest_api.objects.update import update_object
from bucketline_ingest_api.objects.validation import (
    ObjectDraft,
    ensure_writable,
    new_object,
    refuse_too_large,
    validate_create,
)

Match = Literal["idempotency_key", "skip_duplicates"]

LARGE_BODY = 256 * 1024
"""Bytes of a request above which checking it would hold up the others: it moves to a thread."""

ATTEMPTS = 10
"""Lost races for one key or one object before the caller is told to come back."""


@dataclass(frozen=True)
class WriteResult:
    """An object as a write left it. ``replayed_by`` says what matched when nothing was written."""

    document: ObjectDocument
    replayed_by: Match | None = None


async def create_object(
    deps: Container,
    bucket: BucketDocument,
    body: CreateObject,
    *,
    policy: str | None = None,
    auto_process: bool = False,
    size: int = 0,
) -> WriteResult:
    """Stores what the producer sent; what is returned is durable, its event will be published.

    ``size`` is about how many bytes the request has. Raises the contract's errors: 400 without a policy where one is
    needed, 404 and 409 by policy, 413, 422 with one row a fault.
    """
    ensure_writable(bucket)
    key = bucket["unique_key"]
    chosen = resolve_policy(policy, key["default_policy"], bucket_id=bucket["_id"]) if key is not None else None
    if size > LARGE_BODY:
        draft = await asyncio.to_thread(validate_create, bucket, body, deps.settings, deps.ids)
    else:
        draft = validate_create(bucket, body, deps.settings, deps.ids)
    await attach_uploads(deps, bucket["_id"], draft.blobs or ())
    if (known := await find_replay(deps, bucket, draft, chosen)) is not None:
        return known
    staging = Staging(deps, draft.blobs or ())
    try:
        written = await _by_policy(deps, bucket, draft, chosen, staging, auto_process, size)
    except ApiError:
        await staging.discard_unused(None)
        raise
    await staging.discard_unused(written.document)
    return written


async def find_replay(
    deps: Container, bucket: BucketDocument, draft: ObjectDraft, policy: Policy | None
) -> WriteResult | None:
    """The object that an earlier request with the same idempotency key, or the same content, made.

    A plain insert does not ask for its idempotency key beforehand: the unique index will tell. Content names an object
    only where no unique key does: objects of different keys are different whatever they hold.
    """
    content = draft.content_key if draft.skip_duplicates and draft.unique_key is None else None
    by_key = policy in ("update", "upsert") or content is not None
    if by_key and (known := await replay_of_key(deps, bucket, draft)) is not None:
        return known
    found = None if content is None else await deps.objects.by_content_key(bucket["_id"], content)
    return None if found is None else _replay(found, "skip_duplicates")


async def replay_of_key(deps: Container, bucket: BucketDocument, draft: ObjectDraft) -> WriteResult | None:
    """The object that a request with the same idempotency key made or changed."""
    if draft.idempotency_key is None:
        return None
    found = await deps.objects.by_idempotency_key(bucket["_id"], draft.idempotency_key)
    return None if found is None else _replay(found, "idempotency_key")


def build_object(
    deps: Container,
    bucket: BucketDocument,
    draft: ObjectDraft,
    object_id: str,
    *,
    auto_process: bool,
    measured: bool,
) -> tuple[ObjectDocument, CloudEvent]:
    """A new object with its event, not yet written. ``measured``: it may be too large and is looked at."""
    now = deps.clock.now()
    document = new_object(
        bucket,
        draft,
        object_id=object_id,
        batch_id=deps.ids.new("btch") if auto_process else None,
        now=now,
        due_at=now + timedelta(seconds=deps.sweep.stale_after_seconds),
    )
    if measured:
        refuse_too_large(document)
    created = ObjectCreated(
        object_id=object_id,
        bucket_id=document["bucket_id"],
        namespace_id=document["namespace_id"],
        revision=1,
        key_prefix=document["key_prefix"],
        status=Status(document["status"]),
        blob_count=len(document["blobs"]),
        auto_process=auto_process,
        created_at=now,
    )
    event = deps.seal(created)
    document["pending"] = [cast("OutboxDocument", event.to_document())]
    document["pending_since"] = now
    if trace := current_trace():
        document["trace"] = trace
    return document, event


async def _by_policy(
    deps: Container,
    bucket: BucketDocument,
    draft: ObjectDraft,
    policy: Policy | None,
    staging: Staging,
    auto_process: bool,
    size: int,
) -> WriteResult:
    object_id = deps.ids.new("obj")
    for _ in range(ATTEMPTS):
        if policy in ("update", "upsert") and draft.unique_key is not None:
            existing = await deps.objects.by_unique_key(bucket["_id"], draft.unique_key.text)
            if existing is not None:
                await staging.under(existing["_id"])
                changed = await update_object(deps, existing, draft, auto_process=auto_process)
                if changed is not None:
                    OBJECTS.labels("updated").inc()
                    return WriteResult(changed)
                if (known := await find_replay(deps, bucket, draft, policy)) is not None:
                    return known
                continue
            if policy == "update":
                raise key_not_found(draft.unique_key.values)
        await staging.under(object_id)
        written = await _insert(deps, bucket, draft, object_id, auto_process, size)
        if written is not None:
            return written
        if policy == "insert":
            written = await _refused(deps, bucket, draft)
            if written is not None:
                return written
    raise ServiceUnavailable("the same key is being written concurrently; try again", retry_after_seconds=1)


async def _insert(
    deps: Container, bucket: BucketDocument, draft: ObjectDraft, object_id: str, auto_process: bool, size: int
) -> WriteResult | None:
    """None: the unique key was taken, or the object that had the idempotency key is gone by now."""
    document, event = build_object(
        deps, bucket, draft, object_id, auto_process=auto_process, measured=size > LARGE_BODY
    )
    refused_by = await deps.object_writes.insert(document)
    if refused_by is None:
        deps.object_outbox.flush_soon([OutboxEntry(object_id, (event,))])
        if auto_process:
            await submit_auto_batches(deps, [document])
        OBJECTS.labels("created").inc()
        return WriteResult(document)
    return await replay_of_key(deps, bucket, draft)


async def _refused(deps: Container, bucket: BucketDocument, draft: ObjectDraft) -> WriteResult | None:
    """Who has the key: raises 409, or None when it was freed in the meantime."""
    if draft.unique_key is None:
        return None
    existing = await deps.objects.by_unique_key(bucket["_id"], draft.unique_key.text)
    if existing is None:
        return None
    if draft.skip_duplicates and draft.content_key is not None and existing.get("content_key") == draft.content_key:
        return _replay(existing, "skip_duplicates")
    OBJECTS.labels("refused").inc()
    raise key_taken(existing["_id"], draft.unique_key.values)


def _replay(found: ObjectDocument, by: Match) -> WriteResult:
    OBJECTS.labels("replayed").inc()
    return WriteResult(found, by)
