"""What the ingest API does with records: it applies status changes to objects, and drives those that stand still."""

from collections.abc import Sequence

from bucketline.background import Background
from bucketline.events.catalog import ObjectStatusChanged
from bucketline.events.envelope import Received
from bucketline.settings import SweepSettings
from ingest_api.deps import Deps


class Handlers:
    """Handlers and sweepers of this service."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    async def on_status(self, records: Sequence[Received]) -> None:
        """Moves objects forward by compare-and-set: duplicates and late events change nothing."""
        await self._deps.objects.apply_statuses([r.event for r in records if isinstance(r.event, ObjectStatusChanged)])

    def sweep(self, background: Background, settings: SweepSettings) -> None:
        """Registers this service's sweepers."""
