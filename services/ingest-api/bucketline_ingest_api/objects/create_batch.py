"""Creating up to 100 objects in one request: one bulk write, and a result for each."""

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
from bucketline_ingest_api.exception_handlers import faults_of
from bucketline_ingest_api.objects.auto_process import submit_auto_batches
from bucketline_ingest_api.objects.create import LARGE_BODY, WriteResult, build_object, find_replay, replay_of_key
from bucketline_ingest_api.objects.schemas import CreateObject
from bucketline_ingest_api.objects.serializers import PollField, UrlOf, serialize
from bucketline_ingest_api.objects.staging import attach_uploads, discard, stage_large_blobs
from bucketline_ingest_api.objects.validation import ObjectDraft, ensure_writable, validate_create

Outcome = WriteResult | ApiError

CONCURRENT_LOOKUPS = 8


@dataclass(frozen=True)
class _Row:
    """A sound object of the request, ready to be written."""

    draft: ObjectDraft
    document: ObjectDocument
    event: CloudEvent
    staged: list[str]


async def create_objects(
    deps: Container, bucket: BucketDocument, bodies: Sequence[object], *, auto_process: bool, size: int
) -> list[Outcome]:
    """What became of each body, in their order; a faulty one does not stop the others.

    Raises :class:`ValidationFailed` for a bucket with a unique key: which policy would hold cannot be said here.
    """
    ensure_writable(bucket)
    if bucket["unique_key"] is not None:
        message = "objects of a bucket with a unique_key are created one by one, with a policy"
        raise ValidationFailed([ValidationIssue("unique_key", ("body", "objects"), message)], code="unique_key_bucket")
    slots = asyncio.Semaphore(CONCURRENT_LOOKUPS)

    async def ready(index: int, body: object) -> _Row | Outcome:
        async with slots:
            try:
                return await _ready(deps, bucket, body, index, auto_process=auto_process, size=size)
            except ApiError as error:
                return error

    rows = await asyncio.gather(*(ready(index, body) for index, body in enumerate(bodies)))
    outcomes: dict[int, Outcome] = {n: row for n, row in enumerate(rows) if not isinstance(row, _Row)}
    sound = {n: row for n, row in enumerate(rows) if isinstance(row, _Row)}
    left = sound
    while left:
        repeats = _repeats(left)
        outcomes |= await _write(deps, bucket, {n: row for n, row in left.items() if n not in repeats})
        # A repeat of what was not written after all is written itself.
        left = {n: left[n] for n, first in repeats.items() if not _created(outcomes[first])}
        outcomes |= {n: _repeated(outcomes[first]) for n, first in repeats.items() if n not in left}
    unused = [key for n, row in sound.items() if not _created(outcomes[n]) for key in row.staged]
    await discard(deps, unused)
    return [outcomes[index] for index in range(len(bodies))]


async def _ready(
    deps: Container, bucket: BucketDocument, raw: object, index: int, *, auto_process: bool, size: int
) -> _Row | WriteResult:
    location = ("body", "objects", index)
    try:
        body = CreateObject.model_validate(raw)
    except ValidationError as error:
        rows = error.errors(include_url=False, include_input=False, include_context=False)
        raise ValidationFailed(faults_of(rows, *location)) from error
    if size > LARGE_BODY:
        draft = await asyncio.to_thread(validate_create, bucket, body, deps.settings, deps.ids, location=location)
    else:
        draft = validate_create(bucket, body, deps.settings, deps.ids, location=location)
    await attach_uploads(deps, bucket["_id"], draft.blobs or ())
    if (known := await find_replay(deps, bucket, draft, None)) is not None:
        return known
    object_id = deps.ids.new("obj")
    staged = await stage_large_blobs(deps, object_id, draft.blobs or ())
    try:
        document, event = build_object(
            deps, bucket, draft, object_id, auto_process=auto_process, measured=size > LARGE_BODY
        )
    except ApiError:
        await discard(deps, staged)
        raise
    return _Row(draft, document, event, staged)


async def _write(deps: Container, bucket: BucketDocument, rows: dict[int, _Row]) -> dict[int, Outcome]:
    """One bulk write. What a unique index refused was sent before, here or in an earlier request."""
    places = list(rows)
    refused = await deps.objects.insert([row.document for row in rows.values()])
    stored = [rows[n] for place, n in enumerate(places) if place not in refused]
    deps.object_outbox.flush_soon([OutboxEntry(row.document["_id"], (row.event,)) for row in stored])
    await submit_auto_batches(deps, [row.document for row in stored])
    OBJECTS.labels("created").inc(len(stored))
    outcomes: dict[int, Outcome] = {}
    for place, index in enumerate(places):
        row = rows[index]
        if place not in refused:
            outcomes[index] = WriteResult(row.document)
        else:
            found = await replay_of_key(deps, bucket, row.draft)
            outcomes[index] = found or ServiceUnavailable(
                "the object with this idempotency_key is just being deleted; send this one again"
            )
    return outcomes


def _repeats(rows: dict[int, _Row]) -> dict[int, int]:
    """Rows with ``skip_duplicates`` that hold what an earlier row of the same request holds, and which one that is."""
    first: dict[str, int] = {}
    repeats: dict[int, int] = {}
    for index, row in rows.items():
        content = row.draft.content_key
        if content is None:
            continue
        if row.draft.skip_duplicates and content in first:
            repeats[index] = first[content]
        else:
            first.setdefault(content, index)
    return repeats


def _repeated(original: Outcome) -> Outcome:
    return WriteResult(original.document, "skip_duplicates") if isinstance(original, WriteResult) else original


def _created(outcome: Outcome) -> bool:
    return isinstance(outcome, WriteResult) and outcome.replayed_by is None


def show_outcomes(outcomes: Sequence[Outcome], url_of: UrlOf, poll: PollField) -> dict[str, Any]:
    """The answer: rows of what succeeded and of what failed, each with its place in the request."""
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
        {"object_index": index, "error": _told(outcome), "error_type": outcome.type}
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


def _told(error: ApiError) -> str:
    """One line for all that is wrong with an object."""
    if not isinstance(error, ValidationFailed):
        return error.message
    return "; ".join(f"{'.'.join(map(str, _path(fault)))}: {fault['message']}" for fault in error.issues)


def _path(fault: ValidationIssue) -> Sequence[object]:
    """Where in the object: without the part that leads to it."""
    location = fault["location"]
    return location[3:] or ("object",) if isinstance(location, list) else ("object",)
