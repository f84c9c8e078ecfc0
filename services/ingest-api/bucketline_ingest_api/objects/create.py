"""Creates objects: one by policy, or up to 100 with one bulk write. An object that was sent before is returned."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, cast

from pydantic import ValidationError

from bucketline.db.batches import new_auto_batch
from bucketline.db.buckets import BucketDocument
from bucketline.db.objects import ObjectDocument, event_state
from bucketline.db.outbox_store import OutboxDocument, OutboxEntry
from bucketline.domain.insertion_policy import Policy, key_not_found, key_taken, resolve_policy
from bucketline.domain.schema import Location
from bucketline.errors import ApiError, DependencyUnavailable, ServiceUnavailable, ValidationFailed, ValidationIssue
from bucketline.events.cloudevents import CloudEvent
from bucketline.events.models import ObjectCreated
from bucketline.observability.logging import get_logger
from bucketline.observability.metrics import OBJECTS
from bucketline.observability.tracing import current_trace
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.exception_handlers import to_validation_failed
from bucketline_ingest_api.objects.schemas import CreateObject
from bucketline_ingest_api.objects.staging import Staging, attach_uploads
from bucketline_ingest_api.objects.update import merge_object
from bucketline_ingest_api.objects.validation import (
    ObjectDraft,
    ensure_writable,
    new_object,
    refuse_too_large,
    validate_create,
)

log = get_logger(__name__)

ReplayReason = Literal["idempotency_key", "skip_duplicates"]

LARGE_BODY_BYTES = 256 * 1024
"""Requests above this size are validated in a thread, so that they do not hold up others."""

MAX_ATTEMPTS = 10
"""Lost races for one key or one object before the request is refused with 503."""

MAX_CONCURRENT_LOOKUPS = 8


@dataclass(frozen=True)
class WriteResult:
    """An object as a write left it. ``replayed_by`` says what matched when nothing was written."""

    document: ObjectDocument
    replayed_by: ReplayReason | None = None


Outcome = WriteResult | ApiError


@dataclass(frozen=True)
class _NewObject:
    """A valid object of a batch request, ready to be written."""

    draft: ObjectDraft
    document: ObjectDocument
    event: CloudEvent
    staging: Staging


async def create_object(
    deps: Container,
    bucket: BucketDocument,
    body: CreateObject,
    *,
    policy: str | None = None,
    auto_process: bool = False,
    size: int = 0,
) -> WriteResult:
    """Store an object. The returned object is durable and its event will be published.

    ``size`` is the approximate size of the request in bytes. Raises the contract's errors: 400 without a policy where
    one is needed, 404 and 409 by policy, 413, 422 with one row per fault.
    """
    ensure_writable(bucket)
    key = bucket["unique_key"]
    chosen = resolve_policy(policy, key["default_policy"], bucket_id=bucket["_id"]) if key is not None else None
    draft = await _validate(deps, bucket, body, size)
    if (replayed := await _find_replayed(deps, bucket, draft, chosen)) is not None:
        return replayed
    staging = Staging(deps, draft.blobs)
    try:
        written = await _write_by_policy(deps, bucket, draft, chosen, staging, auto_process)
    except ApiError:
        await staging.discard_unused(None)
        raise
    await staging.discard_unused(written.document)
    return written


async def create_objects(
    deps: Container, bucket: BucketDocument, bodies: Sequence[object], *, auto_process: bool, size: int
) -> list[Outcome]:
    """Store the objects and return an outcome for each body, in their order; an invalid one does not stop the others.

    Raises :class:`ValidationFailed` for a bucket with a unique key, since the request cannot name a policy.
    """
    ensure_writable(bucket)
    if bucket["unique_key"] is not None:
        message = "objects of a bucket with a unique_key are created one by one, with a policy"
        raise ValidationFailed([ValidationIssue("unique_key", ("body", "objects"), message)], code="unique_key_bucket")
    slots = asyncio.Semaphore(MAX_CONCURRENT_LOOKUPS)

    async def prepare(index: int, body: object) -> _NewObject | Outcome:
        async with slots:
            try:
                return await _prepare(deps, bucket, body, ("body", "objects", index), auto_process, size)
            except ApiError as error:
                return error

    prepared = await asyncio.gather(*(prepare(index, body) for index, body in enumerate(bodies)))
    outcomes = {n: row for n, row in enumerate(prepared) if not isinstance(row, _NewObject)}
    rows = {n: row for n, row in enumerate(prepared) if isinstance(row, _NewObject)}
    repeats = _find_repeats(rows)
    outcomes |= await _insert_many(deps, bucket, {n: row for n, row in rows.items() if n not in repeats})
    for n, row in repeats.items():
        replayed = await _find_replayed(deps, bucket, row.draft, None)
        outcomes |= {n: replayed} if replayed is not None else await _insert_many(deps, bucket, {n: row})
    for n, row in rows.items():
        outcome = outcomes[n]
        await row.staging.discard_unused(outcome.document if isinstance(outcome, WriteResult) else None)
    return [outcomes[n] for n in range(len(bodies))]


async def submit_auto_batches(deps: Container, objects: list[ObjectDocument]) -> None:
    """Write the batches of one object each that ``auto_process`` asks for.

    The objects are durable and hold the id of their batch. If the database fails here, the request still succeeds and
    the batcher or the reconciler writes the batch later.
    """
    batches = [new_auto_batch(obj, batch_id) for obj in objects if (batch_id := obj.get("batch_id"))]
    try:
        if len(batches) == 1:
            await deps.batch_writer.submit(batches[0])
        elif batches:
            await deps.batches.insert(batches)
    except DependencyUnavailable as error:
        log.warning("automatic batches not written", batches=len(batches), error=error.message)


async def _validate(
    deps: Container, bucket: BucketDocument, body: CreateObject, size: int, location: Location = ("body",)
) -> ObjectDraft:
    if size > LARGE_BODY_BYTES:
        draft = await asyncio.to_thread(validate_create, bucket, body, deps.settings, deps.ids, location=location)
    else:
        draft = validate_create(bucket, body, deps.settings, deps.ids, location=location)
    await attach_uploads(deps, bucket["_id"], draft.blobs, location)
    return draft


async def _find_replayed(
    deps: Container, bucket: BucketDocument, draft: ObjectDraft, policy: Policy | None
) -> WriteResult | None:
    """Return the object that an earlier request with the same idempotency key or the same content wrote.

    A plain insert does not look its idempotency key up beforehand: the unique index refuses a duplicate. Equal content
    counts only in buckets without a unique key.
    """
    content = draft.content_key if draft.body.skip_duplicates and draft.unique_key is None else None
    if policy in ("update", "upsert") or content is not None:
        replayed = await _find_by_idempotency_key(deps, bucket, draft)
        if replayed is not None:
            return replayed
    existing = None if content is None else await deps.objects.by_content_key(bucket["_id"], content)
    return None if existing is None else _replay(existing, "skip_duplicates")


async def _find_by_idempotency_key(deps: Container, bucket: BucketDocument, draft: ObjectDraft) -> WriteResult | None:
    """Return the object that a request with the same idempotency key created or changed."""
    if draft.body.idempotency_key is None:
        return None
    existing = await deps.objects.by_idempotency_key(bucket["_id"], draft.body.idempotency_key)
    return None if existing is None else _replay(existing, "idempotency_key")


def _build_object(
    deps: Container, bucket: BucketDocument, draft: ObjectDraft, object_id: str, *, auto_process: bool
) -> tuple[ObjectDocument, CloudEvent]:
    """Return a new object with its event, not yet written; :class:`PayloadTooLarge` if it is too large."""
    now = deps.clock.now()
    document = new_object(
        bucket,
        draft,
        object_id=object_id,
        batch_id=deps.ids.new("btch") if auto_process else None,
        now=now,
        due_at=now + timedelta(seconds=deps.reconcile.stale_after_seconds),
    )
    refuse_too_large(document)
    created = ObjectCreated(
        object_id=object_id,
        bucket_id=document["bucket_id"],
        namespace_id=document["namespace_id"],
        revision=1,
        **event_state(document),
        blob_count=len(document["blobs"]),
        auto_process=auto_process,
        created_at=now,
    )
    event = deps.new_event(created)
    document["pending"] = [cast("OutboxDocument", event.to_document())]
    document["pending_since"] = now
    if trace := current_trace():
        document["trace"] = trace
    return document, event


async def _write_by_policy(
    deps: Container,
    bucket: BucketDocument,
    draft: ObjectDraft,
    policy: Policy | None,
    staging: Staging,
    auto_process: bool,
) -> WriteResult:
    """Update the object with the key or insert a new one, as the policy says; start again when a race was lost."""
    object_id = deps.ids.new("obj")
    for _ in range(MAX_ATTEMPTS):
        if policy in ("update", "upsert") and draft.unique_key is not None:
            existing = await deps.objects.by_unique_key(bucket["_id"], draft.unique_key.text)
            if existing is not None:
                await staging.stage_for(existing["_id"])
                changed = await merge_object(deps, existing, draft, auto_process=auto_process)
                if changed is not None:
                    if auto_process and changed is not existing:
                        await submit_auto_batches(deps, [changed])
                    OBJECTS.labels("updated").inc()
                    return WriteResult(changed)
                if (replayed := await _find_replayed(deps, bucket, draft, policy)) is not None:
                    return replayed
                continue
            if policy == "update":
                raise key_not_found(draft.unique_key.values)
        await staging.stage_for(object_id)
        written = await _insert(deps, bucket, draft, object_id, auto_process)
        if written is None and policy == "insert":
            written = await _resolve_taken_key(deps, bucket, draft)
        if written is not None:
            return written
    raise ServiceUnavailable("the same key is being written concurrently; try again", retry_after_seconds=1)


async def _insert(
    deps: Container, bucket: BucketDocument, draft: ObjectDraft, object_id: str, auto_process: bool
) -> WriteResult | None:
    """Insert the object; None if its unique key is taken, or its idempotency key was and the holder is gone by now."""
    document, event = _build_object(deps, bucket, draft, object_id, auto_process=auto_process)
    refused_by = await deps.object_writer.submit(document)
    if refused_by is not None:
        return await _find_by_idempotency_key(deps, bucket, draft)
    deps.object_outbox.enqueue([OutboxEntry(object_id, (event,))])
    if auto_process:
        await submit_auto_batches(deps, [document])
    OBJECTS.labels("created").inc()
    return WriteResult(document)


async def _resolve_taken_key(deps: Container, bucket: BucketDocument, draft: ObjectDraft) -> WriteResult | None:
    """Return a duplicate that has the unique key, raise 409 for another object, or return None if it is free again."""
    if draft.unique_key is None:
        return None
    existing = await deps.objects.by_unique_key(bucket["_id"], draft.unique_key.text)
    if existing is None:
        return None
    if (
        draft.body.skip_duplicates
        and draft.content_key is not None
        and existing.get("content_key") == draft.content_key
    ):
        return _replay(existing, "skip_duplicates")
    OBJECTS.labels("refused").inc()
    raise key_taken(existing["_id"], draft.unique_key.values)


def _replay(existing: ObjectDocument, reason: ReplayReason) -> WriteResult:
    OBJECTS.labels("replayed").inc()
    return WriteResult(existing, reason)


async def _prepare(
    deps: Container, bucket: BucketDocument, raw: object, location: Location, auto_process: bool, size: int
) -> _NewObject | WriteResult:
    try:
        body = CreateObject.model_validate(raw)
    except ValidationError as error:
        raise to_validation_failed(error, *location) from error
    draft = await _validate(deps, bucket, body, size, location)
    if (replayed := await _find_replayed(deps, bucket, draft, None)) is not None:
        return replayed
    object_id = deps.ids.new("obj")
    staging = Staging(deps, draft.blobs)
    await staging.stage_for(object_id)
    try:
        document, event = _build_object(deps, bucket, draft, object_id, auto_process=auto_process)
    except ApiError:
        await staging.discard_unused(None)
        raise
    return _NewObject(draft, document, event, staging)


async def _insert_many(deps: Container, bucket: BucketDocument, rows: dict[int, _NewObject]) -> dict[int, Outcome]:
    """Insert the rows with one bulk write; one that a unique index refuses is a replay of an earlier request or row."""
    refused = await deps.objects.insert([row.document for row in rows.values()])
    stored = [row for position, row in enumerate(rows.values()) if position not in refused]
    deps.object_outbox.enqueue([OutboxEntry(row.document["_id"], (row.event,)) for row in stored])
    await submit_auto_batches(deps, [row.document for row in stored])
    OBJECTS.labels("created").inc(len(stored))
    outcomes: dict[int, Outcome] = {}
    for position, (n, row) in enumerate(rows.items()):
        if position not in refused:
            outcomes[n] = WriteResult(row.document)
        else:
            outcomes[n] = await _find_by_idempotency_key(deps, bucket, row.draft) or ServiceUnavailable(
                "the object with this idempotency_key is just being deleted; send this one again"
            )
    return outcomes


def _find_repeats(rows: dict[int, _NewObject]) -> dict[int, _NewObject]:
    """Return the rows with ``skip_duplicates`` whose content an earlier row of the request has."""
    contents: set[str] = set()
    repeats: dict[int, _NewObject] = {}
    for n, row in rows.items():
        content = row.draft.content_key
        if row.draft.body.skip_duplicates and content in contents:
            repeats[n] = row
        elif content is not None:
            contents.add(content)
    return repeats


def error_line(error: ApiError) -> str:
    """Return everything that is wrong with an object of a batch request in one line."""
    if not isinstance(error, ValidationFailed):
        return error.message
    faults = [(cast("list[object]", fault["location"])[3:] or ["object"], fault["message"]) for fault in error.issues]
    return "; ".join(f"{'.'.join(map(str, path))}: {message}" for path, message in faults)
