"""Many beside each other or one alone, and nobody waits for ever."""

import asyncio

import pytest

from bucketline_processor.rw_lock import RWLock


class Worker:
    """Comes in when it may, leaves when the test says so."""

    def __init__(self, company: RWLock, *, alone: bool = False) -> None:
        self.inside = False
        self._leave = asyncio.Event()
        self.task = asyncio.create_task(self._work(company.alone() if alone else company.beside()))

    async def _work(self, room) -> None:
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
def company() -> RWLock:
    return RWLock()


async def test_who_is_alone_waits_for_those_inside_and_lets_nobody_in(company: RWLock):
    first, second = Worker(company), Worker(company)
    await settled()
    assert (first.inside, second.inside) == (True, True)
    single = Worker(company, alone=True)
    await settled()
    late = Worker(company)
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


async def test_those_who_waited_have_their_turn_before_the_next_is_alone(company: RWLock):
    order: list[str] = []

    async def once(number: int) -> None:
        async with company.beside():
            order.append(f"beside {number}")

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            async with company.alone():  # at once again, without a pause of its own
                order.append(f"alone {number}")
                group.create_task(once(number))
                await settled()
    assert order == ["alone 0", "beside 0", "alone 1", "beside 1", "alone 2", "beside 2"]


async def test_two_are_never_alone_together(company: RWLock):
    first, second = Worker(company, alone=True), Worker(company, alone=True)
    await settled()
    assert (first.inside, second.inside) == (True, False)
    await first.leave()
    await settled()
    assert second.inside
    await second.leave()


@pytest.mark.parametrize("inside", [True, False])
async def test_who_is_cancelled_holds_up_nobody(company: RWLock, inside: bool):
    busy = Worker(company)
    await settled()
    if inside:
        await busy.leave()
    single = Worker(company, alone=True)
    await settled()
    waiting, canceled = Worker(company), Worker(company)
    await settled()
    assert (single.inside, waiting.inside) == (inside, False)
    for worker in (single, canceled):
        worker.task.cancel()
    await settled()
    assert waiting.inside
    await waiting.leave()
    if not inside:
        await busy.leave()
    last = Worker(company, alone=True)
    await settled()
    assert last.inside
    await last.leave()
