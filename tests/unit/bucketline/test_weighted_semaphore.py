"""Memory is never given out twice, and whoever waits gets it in turn."""

import asyncio
import random

from bucketline.weighted_semaphore import WeightedSemaphore


async def test_never_more_than_there_is_and_everybody_gets_a_turn() -> None:
    chance = random.Random(4)  # noqa: S311 - a test that can be repeated
    budget, held, most, served = WeightedSemaphore(10), 0, 0, 0

    async def one(size: int) -> None:
        nonlocal held, most, served
        async with budget.reserve(size):
            held += min(size, 10)
            most = max(most, held)
            await asyncio.sleep(0)
            held -= min(size, 10)
            served += 1

    await asyncio.gather(*(one(chance.randint(1, 14)) for _ in range(500)))
    assert (most <= 10, held, served) == (True, 0, 500)


async def test_a_large_wish_is_not_overtaken_for_ever() -> None:
    budget, order = WeightedSemaphore(10), []

    async def one(name: str, size: int) -> None:
        async with budget.reserve(size):
            order.append(name)
            await asyncio.sleep(0)

    await asyncio.gather(one("first", 6), one("large", 9), one("small", 1), one("small too", 1))
    assert order.index("large") < order.index("small")


async def test_cancelled_waiter_loses_no_permit() -> None:
    budget = WeightedSemaphore(10)
    async with budget.reserve(10):
        waiting = [asyncio.create_task(_hold(budget, 5)) for _ in range(4)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.gather(waiting[0], return_exceptions=True)
    # one of them is cancelled in the very moment in which it is served
    waiting[1].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    async with asyncio.timeout(1):
        await _hold(budget, 10)


async def _hold(budget: WeightedSemaphore, size: int) -> None:
    async with budget.reserve(size):
        await asyncio.sleep(0)
