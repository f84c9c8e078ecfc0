"""Creates up to 100 objects in one request: one bulk write, and a result for each object."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from bucketline.db.buckets import BucketDocument
from bucketline.db.objects import ObjectDocument
from bucketline.db.outbox_store import OutboxEntry
from bucketline.errors import ApiError, ServiceUnavailable, ValidationFailed, ValidationIssue
from bucketline.events.cloudevents import CloudEvent
from bucketline.observability.metrics import OBJECTS
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.exception_handlers import to_validation_failed
from bucketline_ingest_api.objects.create import (
    LARGE_BODY_BYTES,
    WriteResult,
    build_object,
    find_by_idempotency_key,
    find_replayed,
    submit_auto_batches,
)
from bucketline_ingest_api.objects.schemas import CreateObject
from bucketline_ingest_api.objects.serializers import PollField, UrlOf, serialize
from bucketline_ingest_api.objects.staging import attach_uploads, discard_staged, stage_large_blobs
from bucketline_ingest_api.objects.validation import ObjectDraft, ensure_writable, validate_create

Outcome = WriteResult | ApiError

MAX_CONCURRENT_LOOKUPS = 8


@dataclass(frozen=True)
class _Row:
    """A valid object of the request, ready to be written. ``staged`` are the keys of its staged content."""

    draft: ObjectDraft
    document: ObjectDocument
    event: CloudEvent
    staged: list[str]


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

    async def prepare(index: int, body: object) -> _Row | Outcome:
        async with slots:
            try:
                return await _prepare(deps, bucket, body, index, auto_process=auto_process, size=size)
            except ApiError as error:
                return error

    prepared = await asyncio.gather(*(prepare(index, body) for index, body in enumerate(bodies)))
    outcomes: dict[int, Outcome] = {n: row for n, row in enumerate(prepared) if not isinstance(row, _Row)}
    rows = {n: row for n, row in enumerate(prepared) if isinstance(row, _Row)}
    remaining = rows
    while remaining:
        repeats = _find_repeats(remaining)
        outcomes |= await _write(deps, bucket, {n: row for n, row in remaining.items() if n not in repeats})
        # A row whose original was not written after all is written itself, in the next round.
        remaining = {n: remaining[n] for n, original in repeats.items() if not _is_created(outcomes[original])}
        outcomes |= {n: _to_repeat(outcomes[original]) for n, original in repeats.items() if n not in remaining}
    unused = [key for n, row in rows.items() if not _is_created(outcomes[n]) for key in row.staged]
    await discard_staged(deps, unused)
    return [outcomes[index] for index in range(len(bodies))]


async def _prepare(
    deps: Container, bucket: BucketDocument, raw: object, index: int, *, auto_process: bool, size: int
) -> _Row | WriteResult:
    location = ("body", "objects", index)
    try:
        body = CreateObject.model_validate(raw)
    except ValidationError as error:
        raise to_validation_failed(error, *location) from error
    if size > LARGE_BODY_BYTES:
        draft = await asyncio.to_thread(validate_create, bucket, body, deps.settings, deps.ids, location=location)
    else:
        draft = validate_create(bucket, body, deps.settings, deps.ids, location=location)
    await attach_uploads(deps, bucket["_id"], draft.blobs or ())
    if (replayed := await find_replayed(deps, bucket, draft, None)) is not None:
        return replayed
    object_id = deps.ids.new("obj")
    staged = await stage_large_blobs(deps, object_id, draft.blobs or ())
    try:
        document, event = build_object(
            deps, bucket, draft, object_id, auto_process=auto_process, check_size=size > LARGE_BODY_BYTES
        )
    except ApiError:
        await discard_staged(deps, staged)
        raise
    return _Row(draft, document, event, staged)


async def _write(deps: Container, bucket: BucketDocument, rows: dict[int, _Row]) -> dict[int, Outcome]:
    """Insert the rows with one bulk write; one that a unique index refuses is a replay of an earlier request or row."""
    refused = await deps.objects.insert([row.document for row in rows.values()])
    stored = [row for position, row in enumerate(rows.values()) if position not in refused]
    deps.object_outbox.enqueue([OutboxEntry(row.document["_id"], (row.event,)) for row in stored])
    await submit_auto_batches(deps, [row.document for row in stored])
    OBJECTS.labels("created").inc(len(stored))
    outcomes: dict[int, Outcome] = {}
    for position, (index, row) in enumerate(rows.items()):
        if position not in refused:
            outcomes[index] = WriteResult(row.document)
        else:
            replayed = await find_by_idempotency_key(deps, bucket, row.draft)
            outcomes[index] = replayed or ServiceUnavailable(
                "the object with this idempotency_key is just being deleted; send this one again"
            )
    return outcomes


def _find_repeats(rows: dict[int, _Row]) -> dict[int, int]:
    """Map rows with ``skip_duplicates`` to the earlier row of the request that has the same content."""
    originals: dict[str, int] = {}
    repeats: dict[int, int] = {}
    for index, row in rows.items():
        content = row.draft.content_key
        if content is None:
            continue
        if row.draft.skip_duplicates and content in originals:
            repeats[index] = originals[content]
        else:
            originals.setdefault(content, index)
    return repeats


def _to_repeat(original: Outcome) -> Outcome:
    return WriteResult(original.document, "skip_duplicates") if isinstance(original, WriteResult) else original


def _is_created(outcome: Outcome) -> bool:
    return isinstance(outcome, WriteResult) and outcome.replayed_by is None


def serialize_outcomes(outcomes: Sequence[Outcome], url_of: UrlOf, poll: PollField) -> dict[str, Any]:
    """Return the response: rows that succeeded and rows that failed, each with its index in the request."""
    succeeded = [
        {
            **serialize(outcome.document, url_of, poll=poll),
            "object_index": index,
            "replayed": outcome.replayed_by is not None,
            "replayed_by": outcome.replayed_by,
        }
        for index, outcome in enumerate(outcomes)
        if isinstance(outcome, WriteResult)
    ]
    failed = [
        {"object_index": index, "error": _error_line(outcome), "error_type": outcome.type}
        for index, outcome in enumerate(outcomes)
        if isinstance(outcome, ApiError)
    ]
    return {
        "succeeded": succeeded,
        "failed": failed,
        "total_requested": len(outcomes),
        "succeeded_count": len(succeeded),
        "failed_count": len(failed),
    }


def _error_line(error: ApiError) -> str:
    """Return everything that is wrong with an object in one line."""
    if not isinstance(error, ValidationFailed):
        return error.message
    return "; ".join(f"{'.'.join(map(str, _path_in_object(fault)))}: {fault['message']}" for fault in error.issues)


def _path_in_object(fault: ValidationIssue) -> Sequence[object]:
    location = fault["location"]
    return location[3:] or ("object",) if isinstance(location, list) else ("object",)
