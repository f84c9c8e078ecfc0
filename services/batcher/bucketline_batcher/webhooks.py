"""Posts the end of a batch to the ``webhook_url`` of its submission, at most once.

A call is claimed in MongoDB before it is made, so a crash in between loses it. Clients that need certainty read the
batch or subscribe to ``batch.completed``.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping

from bucketline.clock import wire_time
from bucketline.db.batches import BatchDocument, Batches, objects_to_process, webhook_host
from bucketline.domain.status import percent
from bucketline.errors import DependencyUnavailable
from bucketline.http.client import PostFailed, WebhookClient
from bucketline.observability.logging import get_logger
from bucketline.service_context import ServiceContext

log = get_logger(__name__)

MAX_CONCURRENCY = 100
PER_HOST = 5
"""Maximum number of concurrent calls, in total and per host, so that a slow host delays only its own calls."""

POLL_SECONDS = 1.0
"""Time between two checks for due calls while other calls are running."""


class Webhooks:
    """Makes the calls that are due."""

    def __init__(self, context: ServiceContext, poster: WebhookClient) -> None:
        self._clock = context.clock
        self._ids = context.ids
        self._batches = Batches(context.database)
        self._poster = poster
        self._calls: dict[asyncio.Task[None], str] = {}
        self._stopping = False

    def stop(self) -> None:
        """Start no further calls."""
        self._stopping = True

    async def call_due(self) -> int:
        """Make calls until none is due and return how many were made. Do not run it concurrently.

        A call starts as soon as another one ends, however long the others take.
        """
        made = 0
        try:
            while True:
                started, more = await self._start_calls()
                made += started
                if self._calls and not (started and more):
                    await asyncio.wait(self._calls, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                elif not more:
                    return made
        except DependencyUnavailable:
            # Claimed calls are made now or never.
            await asyncio.gather(*self._calls, return_exceptions=True)
            raise
        finally:
            for call in self._calls:
                call.cancel()

    async def _start_calls(self) -> tuple[int, bool]:
        """Start calls up to the limits; return how many, and whether more may be due to hosts at their limit."""
        room = MAX_CONCURRENCY - len(self._calls)
        if self._stopping or room <= 0:
            return 0, False
        taken = Counter(self._calls.values())
        full = [host for host, calls in taken.items() if calls >= PER_HOST]
        due = await self._batches.webhooks_due(self._clock.now(), limit=room, without=full)
        chosen: list[tuple[BatchDocument, str]] = []
        for batch in due:
            host = webhook_host(batch.get("webhook_url") or "")
            taken[host] += 1
            if taken[host] <= PER_HOST:
                chosen.append((batch, host))
        claimed = await self._batches.claim_webhooks([b for b, _ in chosen], self._ids.new("req"), self._clock.now())
        for batch, host in chosen:
            if batch["_id"] in claimed:
                call = asyncio.create_task(self._call(batch), name=f"webhook {batch['_id']}")
                self._calls[call] = host
                call.add_done_callback(self._calls.pop)
        return len(claimed), bool(full) or len(chosen) < len(due)

    async def _call(self, batch: BatchDocument) -> None:
        """Make the call and store its result."""
        status_code: int | None = None
        reason: str | None = None
        try:
            status_code = await self._poster.post(batch.get("webhook_url") or "", payload_of(batch))
        except PostFailed as failure:
            reason = failure.message
        log.info("webhook called", batch_id=batch["_id"], status_code=status_code, error=reason)
        try:
            await self._batches.record_webhook_result(batch["_id"], status_code=status_code, error=reason)
        except DependencyUnavailable as error:
            log.warning("webhook result not recorded", batch_id=batch["_id"], error=error.message)


def payload_of(batch: BatchDocument) -> Mapping[str, object]:
    """Return the JSON body of the call."""
    completed = batch.get("completed_at")
    total = objects_to_process(batch)
    processed = batch.get("processed", 0)
    return {
        "batch_id": batch["_id"],
        "status": batch["status"],
        "failure_reason": batch.get("failure_reason"),
        "documents_written": batch.get("documents_written", 0),
        "progress": {
            "processed": processed,
            "total": total,
            "percent": percent(processed, total),
            "errors": batch.get("failed", 0),
        },
        "completed_at": wire_time(completed) if completed else None,
    }
