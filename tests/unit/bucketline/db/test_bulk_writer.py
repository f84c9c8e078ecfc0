"""Concurrent writes share round trips; each caller gets its own outcome."""

import asyncio
from collections.abc import Sequence

import pytest

from bucketline.db.bulk_writer import BulkWriter
from bucketline.errors import DependencyUnavailable, ServiceUnavailable


class Writer:
    """Holds each write until it is let go."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.gates: list[asyncio.Event] = []
        self.error: Exception | None = None

    async def __call__(self, items: Sequence[int]) -> list[int | BaseException]:
        self.groups.append(list(items))
        gate = asyncio.Event()
        self.gates.append(gate)
        await gate.wait()
        if self.error is not None:
            raise self.error
        return [ValueError(item) if item < 0 else item * 10 for item in items]


async def submitted(commit: BulkWriter[int, int], *items: int) -> list["asyncio.Task[int]"]:
    tasks = [asyncio.create_task(commit.submit(item)) for item in items]
    await settled()
    return tasks


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_first_write_starts_at_once_and_later_ones_are_grouped_in_order() -> None:
    writer = Writer()
    commit: BulkWriter[int, int] = BulkWriter(writer, name="test", lanes=1)
    first = await submitted(commit, 1)
    rest = await submitted(commit, 2, 3, 4)
    assert writer.groups == [[1]]
    writer.gates[0].set()
    await settled()
    assert writer.groups == [[1], [2, 3, 4]]
    writer.gates[1].set()
    assert await asyncio.gather(*first, *rest) == [10, 20, 30, 40]
    await commit.close()


async def test_a_group_has_a_largest_size() -> None:
    writer = Writer()
    commit: BulkWriter[int, int] = BulkWriter(writer, name="test", lanes=1, max_size=2)
    tasks = await submitted(commit, 1, 2, 3, 4, 5)
    for _ in range(3):
        writer.gates[-1].set()
        await settled()
    assert [len(group) for group in writer.groups] == [2, 2, 1]
    await asyncio.gather(*tasks)


async def test_the_error_of_one_item_is_its_callers_alone() -> None:
    writer = Writer()
    commit: BulkWriter[int, int] = BulkWriter(writer, name="test", lanes=1)
    tasks = await submitted(commit, 1, -2, 3)
    writer.gates[0].set()
    assert [repr(one) for one in await asyncio.gather(*tasks, return_exceptions=True)] == [
        "10",
        "ValueError(-2)",
        "30",
    ]


async def test_failed_write_raises_for_its_group_and_the_next_group_continues() -> None:
    writer = Writer()
    commit: BulkWriter[int, int] = BulkWriter(writer, name="test", lanes=1)
    first = await submitted(commit, 1, 2)
    later = await submitted(commit, 3)
    writer.error = ValueError("invalid")
    writer.gates[0].set()
    outcomes = await asyncio.gather(*first, return_exceptions=True)
    assert [type(one) for one in outcomes] == [ValueError, ValueError]
    writer.error = None
    writer.gates[1].set()
    assert await asyncio.gather(*later) == [30]
    await commit.close()


async def test_unavailable_store_fails_the_waiting_writes_without_trying_them() -> None:
    writer = Writer()
    commit: BulkWriter[int, int] = BulkWriter(writer, name="test", lanes=1)
    tasks = [*await submitted(commit, 1), *await submitted(commit, 2, 3)]
    writer.error = DependencyUnavailable("away")
    writer.gates[0].set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in outcomes] == [DependencyUnavailable] * 3
    assert writer.groups == [[1]]
    writer.error = None
    [again] = await submitted(commit, 4)
    writer.gates[1].set()
    assert await again == 40
    await commit.close()


async def test_cancelled_caller_does_not_cancel_its_write() -> None:
    writer = Writer()
    commit: BulkWriter[int, int] = BulkWriter(writer, name="test", lanes=1)
    gone, stays = await submitted(commit, 1, 2)
    gone.cancel()
    await settled()
    writer.gates[0].set()
    assert await stays == 20
    assert writer.groups == [[1, 2]]


async def test_more_than_may_wait_are_refused() -> None:
    writer = Writer()
    commit: BulkWriter[int, int] = BulkWriter(writer, name="test", lanes=1, max_waiting=1)
    tasks = await submitted(commit, 1)
    tasks += await submitted(commit, 2)
    with pytest.raises(ServiceUnavailable):
        await commit.submit(3)
    for gate in writer.gates:
        gate.set()
    await settled()
    writer.gates[-1].set()
    assert await asyncio.gather(*tasks) == [10, 20]


@pytest.mark.parametrize("lanes", [1, 2, 3])
async def test_item_submitted_when_a_write_ends_is_written(lanes: int) -> None:
    """Whoever waited for a lane submits again before the event loop has tidied up after that lane."""

    async def write(items: Sequence[int]) -> list[int | BaseException]:
        return list(items)

    commit: BulkWriter[int, int] = BulkWriter(write, name="test", lanes=lanes)

    async def again_and_again() -> None:
        for turn in range(20):
            assert await commit.submit(turn) == turn

    async with asyncio.timeout(5):
        await asyncio.gather(*(again_and_again() for _ in range(lanes)))
    await commit.close()
