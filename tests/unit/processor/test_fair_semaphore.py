import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bucketline_processor.fair_semaphore import FairSemaphore


@asynccontextmanager
async def held(shares: FairSemaphore, group: str, amount: int) -> AsyncIterator[None]:
    await shares.acquire(group, amount)
    try:
        yield
    finally:
        shares.release(group, amount)


async def queue(shares: FairSemaphore, order: list[str], group: str, amount: int = 1) -> asyncio.Task[None]:
    async def one() -> None:
        async with held(shares, group, amount):
            order.append(group)

    task = asyncio.create_task(one())
    await asyncio.sleep(0)
    return task


async def test_new_group_is_served_after_one_request_of_another_group() -> None:
    shares = FairSemaphore(1)
    order: list[str] = []
    await shares.acquire("big")
    waiting = [await queue(shares, order, "big") for _ in range(5)]
    waiting.append(await queue(shares, order, "small"))
    shares.release("big")
    await asyncio.gather(*waiting)
    assert order.index("small") == 1


async def test_acquired_amounts_never_exceed_the_size() -> None:
    shares = FairSemaphore(3)
    out = most = 0

    async def one(amount: int) -> None:
        nonlocal out, most
        async with held(shares, "g", amount):
            out += amount
            most = max(most, out)
            await asyncio.sleep(0)
            out -= amount

    await asyncio.gather(*(one(n % 3 + 1) for n in range(30)))
    assert most == 3
    assert shares.try_acquire("g", 3)


async def test_large_request_is_not_starved_and_is_capped_at_the_size() -> None:
    shares = FairSemaphore(10)
    order: list[str] = []
    await shares.acquire("a", 9)
    large = await queue(shares, order, "large", 50)
    small = await queue(shares, order, "small", 1)
    assert order == []
    shares.release("a", 9)
    await asyncio.gather(large, small)
    assert order == ["large", "small"]


async def test_canceled_request_lets_the_next_one_proceed() -> None:
    shares = FairSemaphore(1)
    order: list[str] = []
    await shares.acquire("a")
    gone, next_one = await queue(shares, order, "b"), await queue(shares, order, "c")
    gone.cancel()
    shares.release("a")
    with pytest.raises(asyncio.CancelledError):
        await gone
    await next_one
    assert order == ["c"]
    assert shares.try_acquire("a")


async def test_request_canceled_while_granted_releases_its_amount() -> None:
    shares = FairSemaphore(1)
    await shares.acquire("a")
    order: list[str] = []
    late = await queue(shares, order, "b")
    shares.release("a")
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late
    assert shares.try_acquire("a")


async def test_reserve_leaves_some_for_every_next_group() -> None:
    shares = FairSemaphore(64, reserve=True)
    order: list[str] = []
    waiting = [asyncio.create_task(shares.acquire("hanging")) for _ in range(400)]
    await asyncio.sleep(0)
    assert sum(task.done() for task in waiting) == 32
    others = [await queue(shares, order, f"other {number}") for number in range(4) for _ in range(100)]
    await asyncio.wait_for(asyncio.gather(*others), 5)
    waiting[0].result()
    shares.release("hanging")
    await asyncio.sleep(0)
    assert sum(task.done() for task in waiting) == 33, "what it gives back is the next of its own to have"
    for task in waiting:
        task.cancel()


async def test_reserve_gives_groups_equal_amounts() -> None:
    shares = FairSemaphore(60, reserve=True)
    held = dict.fromkeys("abc", 0)

    async def one(group: str) -> None:
        await shares.acquire(group)
        held[group] += 1
        await asyncio.sleep(0)
        held[group] -= 1
        shares.release(group)

    tasks = [asyncio.create_task(one(group)) for group in "abc" for _ in range(200)]
    seen = []
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        seen.append(tuple(held.values()))
    assert (15, 15, 15) in seen
    assert shares.try_acquire("d", 60)
