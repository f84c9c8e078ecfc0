"""Documents on the real MongoDB: whatever is made again, and by whomever, there is one set of them."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.unit.processor.factories import a_document
from tests.unit.processor.test_completion import Bench

from bucketline.db.documents import DocumentDocument, Documents
from bucketline.db.mongo import Database
from bucketline.domain.status import Status
from bucketline_processor.extraction import ExtractionOutcome
from bucketline_processor.spooled_documents import SpooledDocuments

pytestmark = pytest.mark.stack


def made(numbers: Sequence[int], **changes: Any) -> list[DocumentDocument]:
    """Documents of ``obj_1`` in ``col_1``."""
    rows: list[Any] = [{**a_document(number), "run": 7, "lease": 1, **changes} for number in numbers]
    return rows


async def there(documents: Documents) -> dict[str, tuple[int, int | None]]:
    """Run and lease of what is stored."""
    rows = await documents.collection.find({}, limit=1000)
    return {row["_id"]: (row["run"], row.get("lease")) for row in rows}


async def outcome(folder: Path, rows: Sequence[DocumentDocument]) -> ExtractionOutcome:
    spool = SpooledDocuments(folder, max_bytes=10**9)
    for row in rows:
        await spool.add(row)
    return ExtractionOutcome(Status.COMPLETED, False, len(rows), {"col_1": spool})


async def test_redelivery_with_fewer_documents_deletes_the_others(database: Database, tmp_path: Path) -> None:
    documents = Documents(database)
    bench = Bench(tmp_path, documents)
    # the first one died before it could say so
    await documents.save(made(range(10)), fresh=True)
    await bench.finish(1, await outcome(tmp_path, made(range(2, 9), lease=2)), attempts=2)
    assert await there(documents) == {f"doc_{number}": (7, 2) for number in range(2, 9)}
    assert [event["documents_total"] for event in bench.said()] == [7]


async def test_rejected_document_leaves_no_documents_of_its_object(database: Database, tmp_path: Path) -> None:
    documents = Documents(database)
    bench = Bench(tmp_path, documents)
    rows = made(range(300), fields={"padding": "x" * 10_000})  # several writes
    deep: dict[str, object] = {}
    for _ in range(300):  # MongoDB holds 200 levels
        deep = {"a": deep}
    rows[-1]["fields"] = deep
    await bench.finish(1, await outcome(tmp_path, rows))
    assert await there(documents) == {}
    [event] = bench.said()
    assert (event["status"], event["documents_total"]) == ("FAILED", 0)


async def test_delete_of_sources_deletes_only_documents_of_the_collection(database: Database) -> None:
    documents = Documents(database)
    await documents.save([*made([1, 2]), *made([3], collection_id="col_2"), *made([4], object_id="obj_2")])
    await documents.delete_of_sources([("obj_1", "col_1")])
    assert sorted(await there(documents)) == ["doc_3", "doc_4"]


@pytest.mark.parametrize("old", [{"lease": 1}, {}], ids=["of a lease before", "of the release before"])
async def test_delete_superseded_deletes_only_older_documents(database: Database, old: dict[str, int]) -> None:
    documents = Documents(database)
    rows: list[Any] = [{**a_document(1), "run": 7, **old}, {**a_document(2), "run": 6, "lease": 9}]
    await documents.save([*rows, *made([3], lease=2), *made([4], run=8), *made([5], lease=3)])
    await documents.save([*made([6], collection_id="col_2"), *made([7], object_id="obj_2")])
    assert await documents.delete_superseded([("obj_1", "col_1", 7, 2)]) == 2
    assert sorted(await there(documents)) == ["doc_3", "doc_4", "doc_5", "doc_6", "doc_7"]


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("later", [{"lease": 2}, {"run": 8}])
async def test_put_under_an_older_lease_replaces_nothing(
    database: Database, fresh: bool, later: dict[str, int]
) -> None:
    documents = Documents(database)
    await documents.save(made(range(5), **later), fresh=True)
    await documents.save(made(range(7)), fresh=fresh)
    run, lease = later.get("run", 7), later.get("lease", 1)
    await documents.delete_superseded([("obj_1", "col_1", run, lease)])
    found = await there(documents)
    assert {f"doc_{number}" for number in range(5)} <= found.keys()
    assert {found[f"doc_{number}"] for number in range(5)} == {(run, lease)}


@pytest.mark.parametrize("fresh", [True, False])
async def test_put_replaces_documents_of_an_earlier_release(database: Database, fresh: bool) -> None:
    documents = Documents(database)
    rows: list[Any] = [{**a_document(number), "run": 7} for number in range(3)]
    await documents.save(rows)
    await documents.save(made(range(3)), fresh=fresh)
    assert set((await there(documents)).values()) == {(7, 1)}


async def test_concurrent_runs_leave_the_documents_of_the_later_one(database: Database) -> None:
    documents = Documents(database)
    for _ in range(20):
        await asyncio.gather(*(documents.save(made(range(30), run=run)) for run in (1, 2, 3)))
        assert set((await there(documents)).values()) == {(3, 1)}
        await documents.collection.delete_many({})
