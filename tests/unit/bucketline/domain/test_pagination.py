from typing import Any

import pytest

from bucketline.domain.keyset import Cursor, Position, Sort
from bucketline.domain.pagination import (
    BATCHES,
    BUCKETS,
    OBJECTS,
    UPLOADS,
    Bounds,
    PageRequest,
    build_pagination,
    resolve_page,
    split_page,
)
from bucketline.errors import BadRequest, ValidationFailed

CURSOR = Cursor((Sort("created_at"),), 20, Position((5,), "obj_5"))
TEXT = CURSOR.encode()
OTHER = Cursor((Sort("created_at"),), 30, None)


@pytest.mark.parametrize(
    ("bounds", "default", "largest"),
    [(OBJECTS, 10, 1000), (UPLOADS, 20, 100), (BATCHES, 100, 1000), (BUCKETS, 10, 1000)],
)
def test_each_list_has_its_sizes(bounds: Bounds, default: int, largest: int) -> None:
    assert resolve_page({}, None, bounds) == PageRequest(default, max_offset=bounds.max_offset)
    assert resolve_page({"limit": str(largest)}, None, bounds).size == largest
    with pytest.raises(ValidationFailed):
        resolve_page({"limit": str(largest + 1)}, None, bounds)


@pytest.mark.parametrize(
    ("query", "body", "size"),
    [
        ({"limit": "5"}, None, 5),
        ({"page_size": "6"}, {}, 6),
        ({"limit": "5", "page_size": "6"}, {}, 5),
        ({"limit": "5"}, {"page_size": 7}, 7),
        ({"limit": "5"}, {"page_size": 7, "limit": 8}, 8),
        ({"limit": "5"}, {"limit": None}, 5),
    ],
)
def test_the_size_comes_from_the_body_then_the_query_and_limit_wins(
    query: dict[str, str], body: dict[str, Any] | None, size: int
) -> None:
    assert resolve_page(query, body, OBJECTS).size == size


@pytest.mark.parametrize(
    ("query", "body", "offset", "cursor"),
    [
        ({}, None, 0, None),
        ({"page": "1"}, None, 0, None),
        ({"page": "3"}, None, 20, None),
        ({"page": "3", "limit": "7"}, None, 14, None),
        ({"offset": "13"}, None, 13, None),
        ({"offset": "13", "page": "3"}, None, 13, None),
        ({"offset": "13"}, {"page": 2}, 10, None),
        ({"offset": "13"}, {"offset": 0}, 0, None),
        ({"cursor": TEXT}, None, 0, CURSOR),
        ({"next_cursor": TEXT}, None, 0, CURSOR),
        ({"after": TEXT}, None, 0, CURSOR),
        ({"after": TEXT, "offset": "4"}, None, 0, CURSOR),
        ({}, {"cursor": TEXT, "page_size": 100}, 0, CURSOR),
        ({"cursor": OTHER.encode()}, {"cursor": TEXT}, 0, CURSOR),
        ({"cursor": TEXT}, {"offset": 4}, 4, None),
        ({"cursor": ""}, {"cursor": ""}, 0, None),
        ({"cursor": ""}, {"cursor": None, "offset": None, "page": None}, 0, None),
    ],
)
def test_the_place_comes_from_the_body_then_the_query(
    query: dict[str, str], body: dict[str, Any] | None, offset: int, cursor: Cursor | None
) -> None:
    page = resolve_page(query, body, OBJECTS)
    assert (page.offset, page.cursor) == (offset, cursor)


@pytest.mark.parametrize(
    ("query", "body", "asked"),
    [
        ({}, None, False),
        ({"include_total": "true"}, None, True),
        ({"include_total": "True"}, None, True),
        ({"include_total": "0"}, None, False),
        ({"include_total": "true"}, {"include_total": False}, False),
        ({}, {"include_total": True}, True),
    ],
)
def test_the_total_is_counted_on_request(query: dict[str, str], body: dict[str, Any] | None, asked: bool) -> None:
    assert resolve_page(query, body, OBJECTS).include_total is asked


@pytest.mark.parametrize(
    ("query", "body", "location"),
    [
        ({"limit": "0"}, None, ["query", "limit"]),
        ({"limit": "-1"}, None, ["query", "limit"]),
        ({"limit": "ten"}, None, ["query", "limit"]),
        ({"limit": ""}, None, ["query", "limit"]),
        ({"limit": "1" * 5000}, None, ["query", "limit"]),
        ({"page_size": "1001"}, None, ["query", "page_size"]),
        ({"page": "0"}, None, ["query", "page"]),
        ({"page": "99999999"}, None, ["query", "page"]),
        ({"offset": "-1"}, None, ["query", "offset"]),
        ({"offset": "10001"}, None, ["query", "offset"]),
        ({"include_total": "maybe"}, None, ["query", "include_total"]),
        ({}, {"limit": "5"}, ["body", "limit"]),
        ({}, {"limit": True}, ["body", "limit"]),
        ({}, {"limit": 5.0}, ["body", "limit"]),
        ({}, {"cursor": 5}, ["body", "cursor"]),
        ({}, {"include_total": "true"}, ["body", "include_total"]),
    ],
)
def test_value_out_of_range_is_one_issue(
    query: dict[str, str], body: dict[str, Any] | None, location: list[str]
) -> None:
    with pytest.raises(ValidationFailed) as caught:
        resolve_page(query, body, BUCKETS)
    assert [fault["location"] for fault in caught.value.issues] == [location]


def test_invalid_cursor_returns_400_and_invalid_numbers_are_reported_together() -> None:
    with pytest.raises(BadRequest):
        resolve_page({"cursor": "b2Zmc2V0OjE="}, None, OBJECTS)
    with pytest.raises(ValidationFailed) as caught:
        resolve_page({"limit": "0", "offset": "-1", "include_total": "x"}, None, OBJECTS)
    assert len(caught.value.issues) == 3


def test_the_order_is_named_or_carried_by_the_cursor_or_the_default() -> None:
    by_name = (Sort("name", descending=True),)
    default = [Sort("created_at")]
    assert PageRequest(10).sorts(None, default) == tuple(default)
    assert PageRequest(10).sorts(by_name, default) == by_name
    continued = PageRequest(10, cursor=Cursor(by_name, 10, None))
    assert continued.sorts(None, default) == by_name
    assert continued.sorts(by_name, default) == by_name
    with pytest.raises(BadRequest):
        continued.sorts(default, default)


def rows(count: int) -> list[dict[str, object]]:
    return [{"_id": f"obj_{i}", "custom": {"n": i}} for i in range(count)]


def test_a_page_is_cut_where_one_row_too_many_shows_that_there_are_more() -> None:
    sorts = (Sort("n"),)
    shown, text = split_page(rows(3), PageRequest(2, offset=4), sorts, lambda field: f"custom.{field}")
    assert shown == 2
    assert text is not None
    assert resolve_page({"cursor": text}, None, OBJECTS).cursor == Cursor(sorts, 6, Position((1,), "obj_1"))
    assert split_page(rows(2), PageRequest(2), sorts, str) == (2, None)
    assert split_page([], PageRequest(2), sorts, str) == (0, None)


def test_a_value_that_no_cursor_can_carry_makes_the_next_page_count() -> None:
    last: dict[str, object] = {"_id": "obj_1", "n": {"an": "object"}}
    _, text = split_page([last, last], PageRequest(1, offset=3), (Sort("n"),), str)
    page = resolve_page({"cursor": text or ""}, None, OBJECTS)
    assert page.cursor == Cursor((Sort("n"),), 4, None)
    assert page.skip == 4


PATH = "/v1/buckets/bkt_1/objects"


def test_page_links_keep_the_query() -> None:
    query = {"page": "2", "page_size": "5", "return_presigned_urls": "true"}
    answer = build_pagination(resolve_page(query, None, OBJECTS), "abc", path=PATH, query=query)
    assert answer == {
        "page": 2,
        "page_size": 5,
        "next_page": f"{PATH}?return_presigned_urls=true&limit=5&page=3",
        "previous_page": f"{PATH}?return_presigned_urls=true&limit=5&page=1",
        "next_cursor": "abc",
    }


def test_the_ends_have_no_neighbour() -> None:
    first = build_pagination(PageRequest(10), None, path=PATH, query={})
    assert (first["next_page"], first["previous_page"], first["next_cursor"]) == (None, None, None)


def test_odd_offsets_and_cursors_link_by_themselves() -> None:
    odd = build_pagination(PageRequest(10, offset=13), "abc", path=PATH, query={"offset": "13"})
    assert odd["next_page"] == f"{PATH}?limit=10&offset=23"
    assert odd["previous_page"] == f"{PATH}?limit=10&offset=3"
    after = build_pagination(PageRequest(10, cursor=CURSOR), "abc", path=PATH, query={"cursor": TEXT})
    assert after["next_page"] == f"{PATH}?limit=10&cursor=abc"
    assert (after["previous_page"], after["page"]) == (None, 3)
    far = build_pagination(PageRequest(10, offset=99_995), "abc", path=PATH, query={})
    assert far["next_page"] == f"{PATH}?limit=10&cursor=abc"


@pytest.mark.parametrize(("total", "pages"), [(0, 0), (1, 1), (10, 1), (11, 2)])
def test_totals_are_there_when_asked_for(total: int, pages: int) -> None:
    request = PageRequest(10, include_total=True)
    answer = build_pagination(request, "abc", path=PATH, query={"include_total": "true"}, total=total)
    assert (answer["total"], answer["total_pages"]) == (total, pages)
    assert answer["next_page"] == f"{PATH}?limit=10&include_total=true&page=2"
