"""Filters and cursors mean on MongoDB what they mean in memory."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from pymongo import InsertOne
from tests.unit.bucketline.domain.filter_strategies import FILTERS, documents, field_path
from tests.unit.bucketline.domain.mongo_conditions import selects

from bucketline.db.mongo import Collection, Database
from bucketline.domain.filter_match import matches
from bucketline.domain.filter_to_mongo import to_mongo
from bucketline.domain.filters import parse
from bucketline.domain.keyset import mongo_sort, rows_after
from bucketline.domain.paging import OBJECTS, PageRequest, cut, resolve_page
from bucketline.domain.sorting import Sort
from bucketline.settings import MongoSettings

pytestmark = pytest.mark.stack

SHARED = settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
async def rows(stack: Any) -> AsyncIterator[Collection[Any]]:
    database = Database(MongoSettings(url=SecretStr(str(stack.mongodb_url)), database="bucketline_filters"))
    yield database.collection("rows")
    await database.drop()
    database.close()


async def fill(rows: Collection[Any], contents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    await rows.delete_many({})
    stored = [{"_id": f"obj_{number:04}", **content} for number, content in enumerate(contents)]
    await rows.bulk([InsertOne(document) for document in stored])
    return stored


@SHARED
@given(contents=st.lists(documents(), min_size=1, max_size=12), raw=st.lists(FILTERS, min_size=1, max_size=10))
async def test_the_server_selects_what_the_evaluator_selects(
    rows: Collection[Any], contents: list[dict[str, Any]], raw: list[dict[str, Any]]
) -> None:
    stored = await fill(rows, contents)
    for entry in raw:
        wanted = parse(entry, exact=["object_id"])
        query = to_mongo(wanted, field_path)
        found = {row["_id"] for row in await rows.find(query, limit=100)}
        assert found == {row["_id"] for row in stored if matches(wanted, row, field_path)}, (entry, query)
        assert found == {row["_id"] for row in stored if selects(query, row)}, (entry, query)


SORTS = st.lists(
    st.builds(Sort, st.sampled_from(["a", "metadata.x", "list.x.y", "created_at", "object_id"]), st.booleans()),
    max_size=2,
    unique_by=lambda sort: sort.field,
).filter(lambda sorts: sum(sort.field not in ("created_at", "object_id") for sort in sorts) < 2)


@SHARED
@given(contents=st.lists(documents(), max_size=20), sorts=SORTS.map(tuple), size=st.integers(1, 6))
async def test_pages_put_together_are_the_sorted_list(
    rows: Collection[Any], contents: list[dict[str, Any]], sorts: tuple[Sort, ...], size: int
) -> None:
    await fill(rows, contents)
    order = mongo_sort(sorts, field_path)
    whole = [row["_id"] for row in await rows.find({}, limit=100, sort=order)]
    seen: list[str] = []
    request: PageRequest | None = PageRequest(size)
    while request is not None and len(seen) <= len(whole):
        where = {}
        if request.cursor is not None and request.cursor.position is not None:
            where = rows_after(request.cursor.position, sorts, field_path, simple=["_id", "created_at"])
        fetched = await rows.find(where, limit=size + 1, sort=order, skip=request.skip)
        shown, cursor = cut(fetched, request, sorts, field_path)
        seen += [row["_id"] for row in fetched[:shown]]
        request = resolve_page({"cursor": cursor, "limit": str(size)}, None, OBJECTS) if cursor else None
    assert seen == whole
