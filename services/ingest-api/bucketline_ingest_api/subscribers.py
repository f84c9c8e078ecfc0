"""What the ingest API does with records: it applies status changes to objects, and drives those that stand still."""

from collections.abc import Sequence

from bucketline.domain.status import RANK_FINAL
from bucketline.events.cloudevents import ReceivedEvent
from bucketline.events.models import ObjectStatusChanged
from bucketline.periodic import PeriodicTasks
from bucketline.settings import ReconcileSettings
from bucketline_ingest_api.container import Container
from bucketline_ingest_api.objects.delete import sweep_removals
from bucketline_ingest_api.objects.metrics import record_status_metrics
from bucketline_ingest_api.objects.reconciler import ObjectReconciler
from bucketline_ingest_api.uploads.delete import sweep_uploads

_SEEN = ("run", "status", "created_at", "moved_at")


class Handlers:
    """Handlers and sweepers of this service."""

    def __init__(self, deps: Container) -> None:
        self._deps = deps
        self._stalled = ObjectReconciler(deps)

    async def on_status(self, records: Sequence[ReceivedEvent]) -> None:
        """Moves objects forward by compare-and-set: duplicates and late events change nothing.

        Documents that were written while their object was being deleted are removed as well, also those of a processor
        that died before it could count them.
        """
        events = [r.event for r in records if isinstance(r.event, ObjectStatusChanged)]
        if not events:
            return
        known = await self._deps.objects.many(list({event.object_id for event in events}), fields=_SEEN)
        await self._deps.objects.apply_statuses([event for event in events if event.object_id in known])
        ended = {event.object_id for event in events if event.rank == RANK_FINAL}
        if orphaned := sorted(ended - known.keys()):
            await self._deps.documents.collection.delete_many({"object_id": {"$in": orphaned}})
        record_status_metrics(events, known)

    def sweep(self, background: PeriodicTasks, settings: ReconcileSettings) -> None:
        """Registers this service's sweepers."""
        background.every(settings.interval_seconds, "sweep removals", lambda: sweep_removals(self._deps))
        background.every(settings.interval_seconds, "sweep object statuses", self._stalled.step)
        background.every(settings.interval_seconds, "sweep uploads", lambda: sweep_uploads(self._deps))
