"""Documents on the real MongoDB, of runs that work on the same object at the same time."""

import asyncio

import pytest
from tests.unit.processor.making import a_document

from bucketline.storage.documents import DocumentDocument, Documents
from bucketline.storage.mongo import Database

pytestmark = pytest.mark.stack


def made(run: int, count: int) -> list[DocumentDocument]:
    return [{**a_document(number), "run": run} for number in range(count)]


@pytest.mark.parametrize("fresh", [True, False])
async def test_what_a_later_run_made_is_not_replaced_by_an_earlier_one(database: Database, fresh: bool) -> None:
    documents = Documents(database)
    await documents.put(made(5, 1), fresh=True)
    await documents.put(made(20, 3), fresh=fresh)
    await documents.put(made(10, 4), fresh=fresh)
    await documents.drop_older([("obj_1", "col_1", 20)])
    found = await documents.of_object("obj_1", limit=10)
    assert [(document["ordinal"], document["run"]) for document in found] == [(0, 20), (1, 20), (2, 20)]


async def test_runs_that_end_at_the_same_moment_leave_the_later_one(database: Database) -> None:
    documents = Documents(database)
    for _ in range(20):
        await asyncio.gather(*(documents.put(made(run, 30)) for run in (1, 2, 3)))
        found = await documents.of_object("obj_1", limit=100)
        assert [document["run"] for document in found] == [3] * 30
        await documents.collection.delete_many({})
