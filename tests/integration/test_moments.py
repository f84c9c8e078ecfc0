"""Dates of the producer's are compared as moments by the server as they are in memory."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from pymongo import InsertOne
from tests.database import drop_database

from bucketline.db.mongo import Collection, Database
from bucketline.domain.moments import MOMENTS, Moments, moment_key
from bucketline.domain.schema import is_date, is_datetime
from bucketline.settings import MongoSettings

pytestmark = pytest.mark.stack

SCHEMA = {
    "properties": {
        "when": {"type": "datetime"},
        "day": {"type": "date"},
        "times": {"type": "array", "items": {"type": "datetime"}},
        "events": {"type": "array", "items": {"type": "object", "properties": {"at": {"type": "datetime"}}}},
        "trip": {"type": "object", "properties": {"start": {"type": "datetime"}, "note": {"type": "string"}}},
    }
}
ZONES = st.one_of(
    st.sampled_from(["", "Z", "z", "+00:00", "-00:00", "+0530", "+05:45", "-12:00", "+14:00"]),
    st.builds(
        lambda sign, hours, minutes, colon: f"{sign}{hours:02}{colon}{minutes:02}",
        st.sampled_from("+-"), st.integers(0, 23), st.integers(0, 59), st.sampled_from([":", ""]),
    ),
)  # fmt: skip
SECONDS = st.one_of(
    st.just(""),
    st.from_regex(r"\A:[0-5][0-9]\Z", fullmatch=True),
    st.from_regex(r"\A:[0-5][0-9]\.[0-9]{1,9}\Z", fullmatch=True),
)


@st.composite
def texts(draw: st.DrawFn) -> str:
    moment = draw(st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31, 23, 59)))
    day = moment.date().isoformat()
    if draw(st.booleans()) and draw(st.booleans()):
        return day
    return f"{day}{draw(st.sampled_from('Tt '))}{moment:%H:%M}{draw(SECONDS)}{draw(ZONES)}"


@pytest.fixture
async def rows(stack: Any) -> AsyncIterator[Collection[Any]]:
    database = Database(MongoSettings(url=SecretStr(str(stack.mongodb_url)), database="bucketline_moments"))
    yield database.collection("rows")
    await drop_database(database)
    database.close()


async def keys_of(rows: Collection[Any], contents: list[dict[str, Any]], field: str) -> list[Any]:
    """The moments of the field's root as the server computes them, row by row."""
    await rows.delete_many({})
    await rows.bulk([InsertOne({"_id": number, "custom": custom}) for number, custom in enumerate(contents)])
    moments = Moments(SCHEMA)
    computed = moments.computed([str(moments.path(field))], under="custom")
    found = await rows.find({}, limit=len(contents), sort=[("_id", 1)], computed=computed)
    return [row[MOMENTS].get(field.partition(".")[0]) for row in found]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(texts(), min_size=1, max_size=40))
@example(values=["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999999-12:00", "0001-01-01", "9999-12-31"])
@example(values=["2024-02-29T23:59:59Z", "1969-12-31T23:59:59.9Z", "1900-01-01 00:00:00.000000001"])
async def test_the_server_computes_the_same_keys(rows: Collection[Any], values: list[str]) -> None:
    assert all(is_date(value) or is_datetime(value) for value in values)
    assert await keys_of(rows, [{"when": value} for value in values], "when") == [moment_key(v) for v in values]


async def test_text_that_is_not_a_date_has_no_moment(rows: Collection[Any]) -> None:
    values = ["", "soon", "2026-02-30", "2026-02-30T00:00", "2026-13-01", "2026-01-01T25:00", "2026-01-01T10:00:00.", 5]
    values += ["2026-01-01T10", "20260101T100000Z", " 2026-01-01", "2026-01-01\n", "2026-01-01T10:00+24:00", True, None]
    values += [{"a": 1}, ["2026-01-01"], "2026-01-01T24:00", "0000-01-01", "2026-01-01T10:00:60Z"]
    for value in values:
        assert not isinstance(value, str) or moment_key(value) is None
    assert await keys_of(rows, [{"when": value} for value in values], "when") == [None] * len(values)


async def test_moments_have_the_shape_of_the_fields(rows: Collection[Any]) -> None:
    at, key = "2026-03-01T10:00:00+05:30", "2026-03-01 04:30:00.000000000"
    contents: list[dict[str, Any]] = [{"times": [at, at]}, {"times": []}, {"times": at}, {}]
    assert await keys_of(rows, contents, "times.1") == [[key, key], [], None, None]
    contents = [{"events": [{"at": at, "x": 1}, {"x": 2}, "no object"]}, {"events": {"at": at}}, {"events": None}]
    assert await keys_of(rows, contents, "events.at") == [[{"at": key}, {}, {}], None, None]
    contents = [{"trip": {"start": at, "note": at}}, {"trip": at}]
    assert await keys_of(rows, contents, "trip.start") == [{"start": key}, {}]


async def test_rows_are_searched_sorted_and_counted_by_moments(rows: Collection[Any]) -> None:
    moments = Moments(SCHEMA)
    path = str(moments.path("when"))
    zone = timezone(timedelta(hours=5, minutes=30))
    start = datetime(2026, 3, 1, tzinfo=UTC)
    for number in range(100):
        when = (start + timedelta(hours=number)).astimezone(zone).isoformat()
        await rows.insert({"_id": number, "bucket_id": number % 2, "custom": {"when": when}})
    computed = moments.computed([path], under="custom")
    where = {"$and": [{"bucket_id": 0}, {path: {"$gte": moment_key("2026-03-04T00:00Z")}}]}
    found = await rows.find(where, limit=100, sort=[(path, -1)], fields=["bucket_id"], computed=computed)
    assert [row["_id"] for row in found] == list(range(98, 71, -2))
    assert await rows.count(where, computed=computed) == 14
    assert await rows.count(where, computed=computed, limit=5) == 5
