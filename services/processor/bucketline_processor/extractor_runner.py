"""Runs one extractor on one object: in the event loop, or in the sandbox if it is CPU-bound."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

from bucketline.errors import DependencyUnavailable
from bucketline.extractors import Document, ExtractionError, ObjectView, PermanentError
from bucketline.observability.logging import get_logger
from bucketline_processor.extraction_plan import PipelineStage
from bucketline_processor.fair_semaphore import FairSemaphore
from bucketline_processor.pausable_timeout import PausableTimeout
from bucketline_processor.worker_pool import WorkerPool

log = get_logger(__name__)


class Extractors:
    """Waits for a turn, then runs. At most ``at_once`` extractions are in the event loop.

    They may wait there for somebody else, a model server for instance, and for as long as the deadline lets them. So
    what one batch has in one collection leaves turns to the others: alone it has half of them.
    """

    def __init__(self, sandbox: WorkerPool, *, at_once: int) -> None:
        self._sandbox = sandbox
        self._turns = FairSemaphore(at_once, spare=True)

    async def documents(
        self, step: PipelineStage, view: ObjectView, group: str, deadline: PausableTimeout
    ) -> AsyncGenerator[Document, None]:
        """What the extractor yields. Waiting for the turn does not count against ``deadline``.

        Raises ``ExtractionError``, and ``DependencyUnavailable`` when a blob cannot be read now. Close it after use.
        """
        extractor = step.extractor
        if extractor is None:
            raise step.problem or PermanentError("the collection's extractor cannot be used")
        context = step.context_for(view)
        if extractor.info.cpu_bound:
            run = self._sandbox.run(extractor.info.id, view, context, group=group, waiting=deadline.paused)
            async with aclosing(run) as documents:
                async for document in documents:
                    yield document
            return
        sharing = f"{group}/{step.id}"
        if not self._turns.take_now(sharing):
            with deadline.paused():
                await self._turns.take(sharing)
        try:
            # extract is an async generator in all but its declared type
            inline = cast("AsyncGenerator[Document, None]", extractor.extract(view, context))
            async with aclosing(inline) as documents:
                async for document in documents:
                    yield document
        except (ExtractionError, DependencyUnavailable):
            raise
        except Exception as error:
            log.exception("an extractor raised", extractor=extractor.info.label, object_id=view.object_id)
            raise PermanentError(f"the extractor failed on this object ({type(error).__name__})") from error
        finally:
            self._turns.give(sharing)
