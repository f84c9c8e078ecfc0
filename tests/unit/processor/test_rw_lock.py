"""The reader-writer lock: many shared holders or one exclusive holder, and neither kind starves the other."""

import asyncio
from contextlib import AbstractAsyncContextManager

import pytest

from bucketline_processor.isolation import RWLock


class Worker:
    """A task that acquires the lock, and releases it when the test calls :meth:`leave`."""

    def __init__(self, lock: RWLock, *, exclusive: bool = False) -> None:
        self.inside = False
        self._leave = asyncio.Event()
        self.task = asyncio.create_task(self._work(lock.exclusive() if exclusive else lock.shared()))

    async def _work(self, room: AbstractAsyncContextManager[None]) -> None:
        async with room:
            self.inside = True
            try:
                await self._leave.wait()
            finally:
                self.inside = False

    async def leave(self) -> None:
        self._leave.set()
        await self.task


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def lock() -> RWLock:
    return RWLock()


async def test_exclusive_request_waits_for_holders_and_blocks_later_shared_requests(lock: RWLock) -> None:
    first, second = Worker(lock), Worker(lock)
    await settled()
    assert (first.inside, second.inside) == (True, True)
    single = Worker(lock, exclusive=True)
    await settled()
    late = Worker(lock)
    await first.leave()
    await settled()
    assert (single.inside, late.inside) == (False, False)
    await second.leave()
    await settled()
    assert (single.inside, late.inside) == (True, False)
    await single.leave()
    await settled()
    assert late.inside
    await late.leave()


async def test_waiting_shared_requests_go_before_the_next_exclusive_one(lock: RWLock) -> None:
    order: list[str] = []

    async def once(number: int) -> None:
        async with lock.shared():
            order.append(f"shared {number}")

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            async with lock.exclusive():  # Again at once, without awaiting in between.
                order.append(f"exclusive {number}")
                group.create_task(once(number))
                await settled()
    assert order == ["exclusive 0", "shared 0", "exclusive 1", "shared 1", "exclusive 2", "shared 2"]


async def test_two_exclusive_requests_are_granted_one_after_the_other(lock: RWLock) -> None:
    first, second = Worker(lock, exclusive=True), Worker(lock, exclusive=True)
    await settled()
    assert (first.inside, second.inside) == (True, False)
    await first.leave()
    await settled()
    assert second.inside
    await second.leave()


@pytest.mark.parametrize("inside", [True, False])
async def test_cancelled_requests_do_not_block_others(lock: RWLock, inside: bool) -> None:
    busy = Worker(lock)
    await settled()
    if inside:
        await busy.leave()
    single = Worker(lock, exclusive=True)
    await settled()
    waiting, canceled = Worker(lock), Worker(lock)
    await settled()
    assert (single.inside, waiting.inside) == (inside, False)
    for worker in (single, canceled):
        worker.task.cancel()
    await settled()
    assert waiting.inside
    await waiting.leave()
    if not inside:
        await busy.leave()
    last = Worker(lock, exclusive=True)
    await settled()
    assert last.inside
    await last.leave()
