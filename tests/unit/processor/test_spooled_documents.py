from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.processor.factories import a_document

from bucketline.extractors import PermanentError, ResourceError
from bucketline_processor.spooled_documents import MAX_MEMORY_BYTES, SpooledDocuments


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[SpooledDocuments]:
    made = SpooledDocuments(tmp_path, max_bytes=64 * 1024 * 1024)
    yield made
    made.close()


async def fill(spool: SpooledDocuments, numbers: range, padding: int = 0) -> None:
    for number in numbers:
        await spool.add(a_document(number, padding="x" * padding))


async def numbers(spool: SpooledDocuments) -> list[object]:
    return [document["fields"]["number"] async for document in spool.documents()]


@pytest.mark.parametrize("padding", [0, 20_000])
async def test_documents_are_read_in_order_repeatedly(spool: SpooledDocuments, padding: int) -> None:
    await fill(spool, range(200), padding)
    assert await numbers(spool) == await numbers(spool) == list(range(200))
    assert spool.count == 200
    groups = [group async for group in spool.rest()]
    assert [document["_id"] for group in groups for document in group] == [f"doc_{n}" for n in range(1, 200)]


async def test_documents_beyond_a_megabyte_are_on_disk(spool: SpooledDocuments) -> None:
    await fill(spool, range(300), 20_000)
    assert spool.size > 5 * MAX_MEMORY_BYTES
    assert len(spool._tail) <= MAX_MEMORY_BYTES


@pytest.mark.parametrize("before", [0, 1, 5, 150])
async def test_rewind_removes_later_documents(spool: SpooledDocuments, before: int) -> None:
    await fill(spool, range(before), 20_000)
    mark = spool.mark()
    await fill(spool, range(1000, 1120), 20_000)
    spool.rewind(mark)
    await fill(spool, range(before, before + 3), 20_000)
    assert await numbers(spool) == list(range(before + 3))
    assert spool.count == before + 3


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("value", [2**64, "\ud800", {1: 2}, object(), "x" * 17_000_000])
async def test_document_that_bson_cannot_hold_raises_permanent_error(
    spool: SpooledDocuments, value: object, before: int
) -> None:
    await fill(spool, range(before))
    with pytest.raises((PermanentError, ResourceError)):
        await spool.add(a_document(1, value=value))
    assert spool.count == before


async def test_documents_beyond_the_limits_raise_resource_error(tmp_path: Path) -> None:
    spool = SpooledDocuments(tmp_path, max_bytes=30_000_000)
    await fill(spool, range(1))
    with pytest.raises(ResourceError, match="too large"):
        await spool.add(a_document(1, value="x" * 17_000_000))
    await spool.add(a_document(1, value="x" * 15_000_000))
    with pytest.raises(ResourceError, match="28 MiB"):
        await spool.add(a_document(2, value="x" * 15_000_000))
    spool.close()
