"""The end of a batch, told to the ``webhook_url`` that came with its submission: one POST, not repeated.

The call is claimed before it is made. A crash in between loses it, and nothing is ever told twice; whoever needs
certainty reads the batch, or subscribes to ``batch.completed``.
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
"""Calls at once, and to one host: who does not answer holds up neither the others nor the next of them for long."""

LOOK_SECONDS = 1.0
"""How often is looked for new ones while calls are being made."""


class Webhooks:
    """Calls what is due."""

    def __init__(self, runtime: ServiceContext, poster: WebhookClient) -> None:
        self._clock = runtime.clock
        self._ids = runtime.ids
        self._batches = Batches(runtime.database)
        self._poster = poster
        self._calls: dict[asyncio.Task[None], str] = {}
        self._stopping = False

    def stop(self) -> None:
        """No call begins any more."""
        self._stopping = True

    async def call_due(self) -> int:
        """Calls what is due until nothing is; returns how many calls that were.

        The next one begins when one ends, whatever the others take. One round at a time.
        """
        made = 0
        try:
            while True:
                begun, more = await self._begin()
                made += begun
                if self._calls and not (begun and more):
                    await asyncio.wait(self._calls, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                elif not more:
                    return made
        except DependencyUnavailable:
            # What was claimed is called now or never.
            await asyncio.gather(*self._calls, return_exceptions=True)
            raise
        finally:
            for call in self._calls:
                call.cancel()

    async def _begin(self) -> tuple[int, bool]:
        """Begins what there is room for; how many, and whether hosts that have enough may have more due."""
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
    """What is posted."""
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
