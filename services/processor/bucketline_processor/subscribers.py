"""What the processor does with records: put the units in line. The work itself goes on beside the bus."""

from collections.abc import Sequence

from bucketline.events.cloudevents import ReceivedEvent
from bucketline.events.models import WorkUnitReady
from bucketline_processor.unit_scheduler import UnitScheduler


class Handlers:
    """Handlers of this service; each may see any record again."""

    def __init__(self, works: UnitScheduler) -> None:
        self._works = works

    async def on_work(self, records: Sequence[ReceivedEvent]) -> None:
        """Returns when every unit stands in line here, or is somebody else's."""
        await self._works.offer({r.event.unit_id: dict(r.trace) for r in records if isinstance(r.event, WorkUnitReady)})
