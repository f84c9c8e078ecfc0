import base64
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketline.domain.bson_compare import EMPTY
from bucketline.domain.cursors import Cursor, _check, check_sorts, decode
from bucketline.domain.keyset import Position
from bucketline.domain.sorting import Sort
from bucketline.errors import BadRequest

MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(2999, 1, 1)).map(  # made aware below
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000, tzinfo=UTC)
)
KEYS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20) | MOMENTS | st.just(EMPTY)
)  # fmt: skip
SORTS = st.builds(Sort, st.sampled_from(["a", "b.c", "größe"]), st.booleans())


@st.composite
def cursors(draw: st.DrawFn) -> Cursor:
    sorts = tuple(draw(st.lists(SORTS, max_size=3)))
    keys = tuple(draw(KEYS) for _ in sorts)
    position = draw(st.none() | st.just(Position(keys, "obj_1")))
    return Cursor(sorts, draw(st.integers(0, 2**40)), position)


@given(cursors())
def test_a_cursor_comes_back_as_it_was_and_fits_into_a_url(cursor: Cursor) -> None:
    text = cursor.encode()
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    again = decode(text)
    assert again == cursor
    if cursor.position and again.position:
        assert list(map(type, again.position.keys)) == list(map(type, cursor.position.keys))


@given(cursors(), st.data())
def test_any_edit_is_told(cursor: Cursor, data: st.DataObject) -> None:
    text = cursor.encode()
    place = data.draw(st.integers(0, len(text) - 2))
    letter = data.draw(st.sampled_from("AZaz09-_").filter(lambda letter: letter != text[place]))
    with pytest.raises(BadRequest) as caught:
        decode(text[:place] + letter + text[place + 1 :])
    assert caught.value.code == "invalid_cursor"


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_what_is_not_ours_is_400(text: str) -> None:
    with pytest.raises(BadRequest):
        decode(text)


def forged(payload: object) -> str:
    body = payload.encode() if isinstance(payload, str) else json.dumps(payload).encode()
    return base64.urlsafe_b64encode(_check(body) + body).decode().rstrip("=")


GOOD = {"v": 1, "s": [["a", "a"]], "n": 1, "k": [1], "i": "obj_1"}


def test_the_forger_can_write_a_good_one() -> None:
    """So that the next test fails for the right reason."""
    assert decode(forged(GOOD)) == Cursor((Sort("a"),), 1, Position((1,), "obj_1"))


@pytest.mark.parametrize(
    "payload",
    [
        [], "null", "[" * 5000, "{", 1,
        {**GOOD, "v": 2},
        {**GOOD, "n": -1}, {**GOOD, "n": True}, {**GOOD, "n": "1"}, {**GOOD, "n": 2**60},
        {**GOOD, "s": [["$where", "a"]]}, {**GOOD, "s": [["a", "x"]]}, {**GOOD, "s": [["a", []]]},
        {**GOOD, "s": [[1, "a"]]},
        {**GOOD, "s": [["a", "a"]] * 7, "k": [1] * 7},
        {**GOOD, "k": []}, {**GOOD, "k": [{"$gt": ""}]}, {**GOOD, "k": [["$gt"]]}, {**GOOD, "k": [2**63]},
        {**GOOD, "k": [["t", 10**30]]}, {**GOOD, "k": [["t", "x"]]}, {**GOOD, "k": ["\ud800"]},
        {**GOOD, "k": ["x" * 600]},
        {**GOOD, "i": {"$gt": ""}}, {**GOOD, "i": "\udc00"}, {**GOOD, "i": "x" * 300},
    ],
)  # fmt: skip
def test_a_forged_cursor_brings_nothing_but_plain_values(payload: object) -> None:
    with pytest.raises(BadRequest):
        decode(forged(payload))


def test_a_cursor_is_bounded() -> None:
    with pytest.raises(BadRequest):
        decode("A" * 100_000)


def test_another_order_is_refused() -> None:
    cursor = Cursor((Sort("a"),), 5, None)
    check_sorts(cursor, [Sort("a")])
    for other in ([], [Sort("a", descending=True)], [Sort("b")], [Sort("a"), Sort("b")]):
        with pytest.raises(BadRequest):
            check_sorts(cursor, other)
