"""What filters select and how lists are paged, on a real server."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from pymongo import InsertOne
from tests.database import drop_database

from bucketline.db.mongo import Collection, Database
from bucketline.domain.filters import MAX_SEARCHED, Condition, literal_pattern, parse_filter, to_mongo
from bucketline.domain.keyset import Sort, mongo_sort, rows_after
from bucketline.domain.pagination import OBJECTS, PageRequest, resolve_page, split_page
from bucketline.errors import ValidationFailed
from bucketline.settings import MongoSettings

pytestmark = pytest.mark.stack

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def rows(stack: Any) -> AsyncIterator[Collection[Any]]:
    database = Database(MongoSettings(url=SecretStr(str(stack.mongodb_url)), database="bucketline_filters"))
    await database.collection("rows").delete_many({})
    yield database.collection("rows")
    await drop_database(database)
    database.close()


def field_path(field: str) -> str:
    """Map wire names to stored paths as the object routes do."""
    if field == "object_id":
        return "_id"
    return field if field == "created_at" else f"custom.{field}"


async def fill(rows: Collection[Any], contents: list[dict[str, Any]]) -> None:
    await rows.delete_many({})
    await rows.bulk(
        [
            InsertOne(
                {"_id": f"obj_{number:04}", "created_at": START + timedelta(seconds=number // 3), "custom": custom}
            )
            for number, custom in enumerate(contents)
        ]
    )


async def select(rows: Collection[Any], raw: object) -> list[str]:
    query = to_mongo(parse_filter(raw, exact=["object_id"]), field_path)
    return [row["_id"] for row in await rows.find(query, limit=100, sort=[("_id", 1)])]


INVOICE: dict[str, Any] = {
    "state": "Open",
    "qty": 4,
    "price": 2.5,
    "paid": False,
    "gone": None,
    "title": "The quick, brown fox",
    "special": "a.b [x] (1+1)^2 $5 \\z\0end",
    "note": "first line\nsecond  line — “Größe” 日本、東京 🎉",
    "tags": ["Red", "blue", 7],
    "empty": [],
    "vendor": {"name": "Acme", "cities": ["Ulm", "Bonn"]},
    "lines": [{"sku": "A", "n": 1}, {"sku": "B"}],
}
OPERATORS: list[tuple[str, str, object, bool]] = [
    ("state", "eq", "open", True),
    ("state", "eq", "closed", False),
    ("state", "eq", "ope", False),
    ("state", "eq", "open\n", False),
    ("qty", "eq", 4.0, True),
    ("qty", "eq", "4", False),
    ("paid", "eq", False, True),
    ("paid", "eq", 0, False),
    ("gone", "eq", None, True),
    ("absent", "eq", None, True),
    ("state", "eq", None, False),
    ("tags", "eq", "RED", True),
    ("lines.sku", "eq", "b", True),
    ("lines.1.sku", "eq", "a", False),
    ("special", "eq", "A.B [X] (1+1)^2 $5 \\Z\0END", True),
    ("state", "ne", "open", False),
    ("absent", "ne", "open", True),
    ("tags", "ne", "blue", False),
    ("qty", "gt", 3, True),
    ("qty", "gt", 4, False),
    ("qty", "gte", 4, True),
    ("qty", "gt", "3", False),
    ("price", "lt", 3, True),
    ("absent", "lt", 3, False),
    ("state", "lt", "Z", True),
    ("state", "lt", "A", False),
    ("created_at", "gte", "2026-01-01T00:00:00Z", True),
    ("created_at", "lt", "2026-01-01", False),
    ("state", "in", ["x", "OPEN"], True),
    ("state", "in", [f"value {number}" * 10 for number in range(500)], False),
    ("state", "in", [*(f"value {number}" * 10 for number in range(500)), "oPEN"], True),
    ("state", "in", [], False),
    ("absent", "in", [None], True),
    ("qty", "in", ["a", 4], True),
    ("state", "nin", ["x", "OPEN"], False),
    ("state", "nin", [], True),
    ("title", "contains", "QUICK", True),
    ("special", "contains", "[X] (1+1)^2 $5 \\Z\0E", True),
    ("special", "contains", "a?b", False),
    ("tags", "contains", "lu", True),
    ("tags", "contains", 7, True),
    ("qty", "contains", 4, False),
    ("qty", "contains", "4", False),
    ("title", "starts_with", "the q", True),
    ("title", "starts_with", "quick", False),
    ("note", "starts_with", "second", False),
    ("title", "ends_with", "FOX", True),
    ("note", "ends_with", "first line", False),
    ("title", "regex", "^the .*fox$", True),
    ("title", "regex", "quick|slow", True),
    ("title", "regex", r"\d", False),
    ("title", "regex", "", True),
    ("title", "regex", r"\bbrown\b", True),
    ("title", "regex", r"(?P<letter>[a-z])\W+\1", False),
    ("title", "regex", r"(?<=quick, )brown(?= fox)", True),
    ("title", "regex", "x|", True),
    ("note", "regex", "line.second", False),
    ("note", "regex", r"größe", True),
    ("vendor.cities", "regex", "^b", True),
    ("vendor.cities", "regex", "^on", False),
    ("gone", "exists", True, True),
    ("absent", "exists", True, False),
    ("absent", "exists", False, True),
    ("lines.n", "exists", None, True),
    ("gone", "is_null", True, True),
    ("absent", "is_null", None, True),
    ("state", "is_null", False, True),
    ("title", "text", "ick, br", True),
    ("title", "words", "FOX quick", True),
    ("title", "words", "fo", False),
    ("title", "phrase", "quick brown", True),
    ("title", "phrase", "brown quick", False),
    ("title", "phrase", "quick fox", False),
    ("note", "phrase", "line second line größe", True),
    ("note", "phrase", "日本 東京", True),
    ("note", "words", "日", False),
    ("note", "words", "🎉", True),
]


async def test_filter_with_each_operator_selects_the_matching_row(rows: Collection[Any]) -> None:
    await fill(rows, [INVOICE])
    wrong = [
        (field, operator, value)
        for field, operator, value, expected in OPERATORS
        if bool(await select(rows, {"field": field, "operator": operator, "value": value})) is not expected
    ]
    assert wrong == []


async def test_filter_with_case_sensitive_compares_case(rows: Collection[Any]) -> None:
    await fill(rows, [INVOICE])
    for field, operator, matching, other in (
        ("state", "eq", "Open", "open"),
        ("state", "in", ["Open"], ["open"]),
        ("title", "contains", "quick", "Quick"),
        ("title", "starts_with", "The", "the"),
        ("title", "ends_with", "fox", "Fox"),
        ("title", "words", "The", "the"),
        ("title", "phrase", "The quick", "the quick"),
        ("title", "regex", "^The", "^THE"),
    ):
        condition = {"field": field, "operator": operator, "case_sensitive": True}
        assert await select(rows, {**condition, "value": matching}), (operator, matching)
        assert not await select(rows, {**condition, "value": other}), (operator, other)


@pytest.mark.parametrize("letters", ["aA", "éÉ", "sSſ", "kK\u212a", "σςΣ", "ßẞ", "жЖ", "𐐀𐐨", "θϑΘϴ", "ǆǅǄ"])
async def test_filter_without_case_equates_the_cases_of_a_letter(rows: Collection[Any], letters: str) -> None:
    await fill(rows, [{"a": letter} for letter in letters])
    for letter in letters:
        for operator in ("eq", "contains", "starts_with", "ends_with", "words", "phrase", "regex"):
            matched = await select(rows, {"field": "a", "operator": operator, "value": letter})
            assert len(matched) == len(letters), (letter, operator)


@pytest.mark.parametrize(("left", "right"), [("ß", "ss"), ("i", "İ"), ("i", "ı"), ("e", "é"), ("1", "¹")])
async def test_filter_without_case_distinguishes_other_letters(rows: Collection[Any], left: str, right: str) -> None:
    await fill(rows, [{"a": left}, {"a": right}])
    assert await select(rows, {"a": left.upper() if left != "ß" else left}) == ["obj_0000"]
    assert await select(rows, {"a": right}) == ["obj_0001"]


GROUPS: list[tuple[dict[str, Any], bool]] = [
    ({"AND": [{"state": "open"}, {"qty": 4}]}, True),
    ({"AND": [{"state": "open"}, {"qty": 5}]}, False),
    ({"OR": [{"state": "closed"}, {"qty": 4}]}, True),
    ({"OR": [{"state": "closed"}, {"qty": 5}]}, False),
    ({"NOT": [{"state": "closed"}, {"qty": 5}]}, True),
    ({"NOT": [{"state": "closed"}, {"qty": 4}]}, False),
    ({"state": "open", "OR": [{"qty": 4}], "NOT": [{"paid": True}]}, True),
    ({"state": "open", "OR": [{"qty": 4}], "NOT": [{"paid": False}]}, False),
    ({}, True),
    ({"OR": [{}]}, True),
    ({"NOT": [{}]}, False),
    ({"object_id": "obj_0000"}, True),
    ({"object_id": "OBJ_0000"}, False),
]


async def test_filter_with_groups_selects_the_matching_row(rows: Collection[Any]) -> None:
    await fill(rows, [INVOICE])
    assert [raw for raw, expected in GROUPS if bool(await select(rows, raw)) is not expected] == []


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet="aAßé.*+?()[]{}|^$\\-# \n\t\0\x07🎉1_", min_size=1, max_size=8))
async def test_filter_with_any_text_takes_it_literally(rows: Collection[Any], text: str) -> None:
    await fill(rows, [{"a": f"<{text}>"}, {"a": "other"}])
    for case_sensitive in (True, False):
        condition = {"field": "a", "operator": "contains", "value": text, "case_sensitive": case_sensitive}
        assert await select(rows, condition) == ["obj_0000"]
        pattern = literal_pattern(f"<{text}>", case_sensitive=case_sensitive)
        assert len(await rows.find({"custom.a": {"$regex": pattern}}, limit=2)) == 1


HOSTILE = [
    "(a+)+c", "(a*)*c", "((a+)+)+c", "(a|a)*c", "(a|aa)+c", "(.*)*c", r"(.*)\1+c", r"(\w+\s?)+c", "(?:a?){14}a{14}c",
    "(?:a{1,99}){1,99}c", "(?=(a+)+c)", "(?<!b)(a+)+c", "(" * 50 + "a+" + ")+" * 50 + "c", "a*" * 200 + "c",
    "|".join(["a" * 20 + "c"] * 22), "(?:.*?,){20}c",
]  # fmt: skip


async def test_hostile_regex_on_long_text_ends_within_milliseconds(rows: Collection[Any]) -> None:
    """The server cannot interrupt a pattern inside one text: each text must be cheap."""
    lengths = (30, MAX_SEARCHED, 10_000, 1_000_000)
    await fill(rows, [{"a": ("aaaaaaaaaaaaaaab" * (length // 16 + 1))[:length]} for length in lengths])
    for pattern in HOSTILE:
        started = time.monotonic()
        query = to_mongo(Condition("a", "regex", pattern), field_path)  # the parser refuses most of these
        assert await rows.find(query, limit=100) == [], pattern
        assert time.monotonic() - started < 2, pattern


@pytest.mark.parametrize("pattern", [r"\u1234", "a{70000}", "(?:(?:a{1,200}){1,200}){1,200}", "[[:nothing:]]"])
async def test_regex_that_only_mongodb_refuses_is_a_validation_error(rows: Collection[Any], pattern: str) -> None:
    await fill(rows, [INVOICE])
    with pytest.raises(ValidationFailed) as caught:
        await select(rows, {"field": "title", "operator": "regex", "value": pattern})
    assert caught.value.issues[0]["type"] == "regex"
    assert await asyncio.wait_for(select(rows, {}), 5) == ["obj_0000"]


SCALARS: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.sampled_from([0.5, -0.0, 2**53, 2**53 + 1, float(2**53), 2**63 - 1, "", "a", "B", "b", "é", "🎉"])
)
INNER = st.dictionaries(st.just("x"), SCALARS | st.lists(SCALARS, max_size=2), max_size=1)
VALUES = SCALARS | INNER | st.lists(SCALARS | INNER | st.lists(SCALARS, max_size=2), max_size=3)
CUSTOM = st.dictionaries(st.sampled_from(["a", "metadata", "list"]), VALUES, max_size=3)
SORTS = st.lists(
    st.builds(Sort, st.sampled_from(["a", "metadata.x", "list.x.y", "created_at", "object_id"]), st.booleans()),
    max_size=2,
    unique_by=lambda sort: sort.field,
).filter(lambda sorts: sum(sort.field not in ("created_at", "object_id") for sort in sorts) < 2)


async def read_pages(rows: Collection[Any], sorts: tuple[Sort, ...], size: int, limit: int) -> AsyncIterator[list[str]]:
    """Yield the ids of each page, read as the list routes do."""
    request: PageRequest | None = PageRequest(size)
    count = 0
    while request is not None and count <= limit:
        where = {}
        if request.cursor is not None and request.cursor.position is not None:
            where = rows_after(request.cursor.position, sorts, field_path, simple=["_id", "created_at"])
        order = mongo_sort(sorts, field_path)
        fetched = await rows.find(where, limit=size + 1, sort=order, skip=request.skip)
        shown, cursor = split_page(fetched, request, sorts, field_path)
        yield [row["_id"] for row in fetched[:shown]]
        count += shown
        request = resolve_page({"cursor": cursor, "limit": str(size)}, None, OBJECTS) if cursor else None


SHARED = settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@SHARED
@given(contents=st.lists(CUSTOM, max_size=20), sorts=SORTS.map(tuple), size=st.integers(1, 6))
async def test_pages_joined_are_the_sorted_list(
    rows: Collection[Any], contents: list[dict[str, Any]], sorts: tuple[Sort, ...], size: int
) -> None:
    await fill(rows, contents)
    whole = [row["_id"] for row in await rows.find({}, limit=100, sort=mongo_sort(sorts, field_path))]
    seen = [identifier async for page in read_pages(rows, sorts, size, len(whole)) for identifier in page]
    assert seen == whole


async def test_pages_read_during_inserts_and_deletes_neither_repeat_nor_miss_rows(rows: Collection[Any]) -> None:
    contents: list[dict[str, Any]] = [{"a": [None, 1, "x", [3, "b"], [], 2.5, "x", True][n % 8]} for n in range(60)]
    for sorts in ((Sort("a"),), (Sort("a", descending=True),), (Sort("created_at", descending=True),)):
        await fill(rows, contents)
        stays = {f"obj_{number:04}" for number in range(60)}
        seen: list[str] = []
        async for page in read_pages(rows, sorts, 4, 200):
            seen += page
            number = len(seen)
            if number < 60:
                extra = {"created_at": START + timedelta(seconds=number % 20), "custom": {"a": contents[number]["a"]}}
                await rows.insert({"_id": f"obj_{number:04}_extra", **extra})
            await rows.delete_one({"_id": f"obj_{number % 60:04}"})
            stays.discard(f"obj_{number % 60:04}")
        assert len(seen) == len(set(seen))
        assert stays <= set(seen)
