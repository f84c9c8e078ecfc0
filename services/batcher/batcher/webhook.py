"""The end of a batch, told to the ``webhook_url`` that came with its submission: one POST, not repeated.

The call is claimed before it is made. A crash in between loses it, and nothing is ever told twice; whoever needs
certainty reads the batch, or subscribes to ``batch.completed``.
"""

import asyncio
from collections.abc import Mapping

from bucketline.clock import wire_time
from bucketline.domain.progress import percent
from bucketline.outbound.post import Poster, PostFailed
from bucketline.runtime import Runtime
from bucketline.storage.batches import BatchDocument, Batches
from bucketline.telemetry.logging import get_logger

log = get_logger(__name__)

AT_ONCE = 20


class Webhooks:
    """Calls what is due."""

    def __init__(self, runtime: Runtime, poster: Poster) -> None:
        self._clock = runtime.clock
        self._batches = Batches(runtime.database)
        self._poster = poster

    async def call_due(self) -> int:
        """One round of calls, side by side; returns how many were due."""
        due = await self._batches.webhooks_due(self._clock.now(), limit=AT_ONCE)
        await asyncio.gather(*(self._call(batch) for batch in due))
        return len(due)

    async def _call(self, batch: BatchDocument) -> None:
        claimed = await self._batches.collection.update_one(
            {"_id": batch["_id"], "webhook.state": "due", "webhook.at": batch["webhook"]["at"]},
            {"$set": {"webhook": {"state": "called", "at": self._clock.now()}}},
        )
        url = batch.get("webhook_url")
        if not claimed or not url:
            return
        outcome: dict[str, object]
        try:
            outcome = {"webhook.status_code": await self._poster.post(url, payload_of(batch))}
        except PostFailed as error:
            outcome = {"webhook.error": error.message}
        log.info(
            "told the end of a batch", batch_id=batch["_id"], **{k.partition(".")[2]: v for k, v in outcome.items()}
        )
        await self._batches.collection.update_one({"_id": batch["_id"]}, {"$set": outcome})


def payload_of(batch: BatchDocument) -> Mapping[str, object]:
    """What is posted."""
    completed = batch.get("completed_at")
    total = batch["total"] - batch.get("missing", 0)
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
