import asyncio

import pytest

from bucketline.extractors import ResourceError
from bucketline_processor.extractor_runner import PausableTimeout


async def test_timeout_raises_resource_error() -> None:
    with pytest.raises(ResourceError, match=r"longer than 0\.01 seconds"):
        async with PausableTimeout(0.01):
            await asyncio.Event().wait()


async def test_paused_time_does_not_count() -> None:
    async with PausableTimeout(0.02) as deadline:
        with deadline.paused():
            await asyncio.wait([asyncio.create_task(asyncio.Event().wait())], timeout=0.06)


async def test_timeout_continues_after_the_pause() -> None:
    async def work() -> None:
        async with PausableTimeout(0.02) as deadline:
            with deadline.paused():
                pass
            await asyncio.Event().wait()

    with pytest.raises(ResourceError):
        await work()


async def test_cancellation_is_not_reported_as_timeout() -> None:
    async def work() -> None:
        async with PausableTimeout(60):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
