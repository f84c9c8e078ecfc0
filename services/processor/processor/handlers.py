"""What the processor does with records: take the units, work on them, say what became of them."""

import asyncio
from collections.abc import Sequence

from bucketline.events.catalog import WorkReady
from bucketline.events.envelope import Received
from processor.leases import Leases
from processor.pipeline import Pipeline


class Handlers:
    """Handlers of this service; each may see any record again."""

    def __init__(self, leases: Leases, pipeline: Pipeline) -> None:
        self._leases = leases
        self._pipeline = pipeline

    async def on_work(self, records: Sequence[Received]) -> None:
        """Works on the units that nobody else holds, side by side. A unit that fails is given back, then the error
        decides about the record."""
        wanted = {r.event.unit_id: dict(r.trace) for r in records if isinstance(r.event, WorkReady)}
        outcomes = await asyncio.gather(*(self._unit(*one) for one in wanted.items()), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseExceptionGroup):
                raise outcome.exceptions[0]
            if isinstance(outcome, BaseException):
                raise outcome

    async def _unit(self, unit_id: str, trace: dict[str, str]) -> None:
        unit = await self._leases.take(unit_id)
        if unit is None:
            return
        try:
            await self._pipeline.run(unit, trace)
        except BaseException:
            await self._leases.give_back(unit_id)
            raise
        self._leases.done(unit_id)
