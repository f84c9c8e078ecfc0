import datetime
import json
import math
import uuid
from decimal import Decimal

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketline_processor.extractors.table_columns import exact_float
from bucketline_processor.extractors.values import json_value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, True),
        (2**63 - 1, 2**63 - 1),
        (2**63, str(2**63)),
        (math.nan, None),
        (math.inf, None),
        (Decimal("1.5"), 1.5),
        (Decimal("3.00"), 3),
        (Decimal("0.12345678901234567890123"), "0.12345678901234567890123"),
        (Decimal("NaN"), None),
        (datetime.date(2026, 3, 1), "2026-03-01"),
        (datetime.timedelta(minutes=1.5), 90.0),
        (b"\x00\xff", "AP8="),
        ("a\ud800b", "a?b"),
        ({1: (2, 3)}, {"1": [2, 3]}),
        ({"$ref": "users", "$id": 7}, {"ref": "users", "id": 7}),
        ({"a": [{"$$x": 1, "x": 2, "x_2": 3}]}, {"a": [{"x_3": 1, "x": 2, "x_2": 3}]}),
        ({"$": 1, "a\0b": 2, "price in $": 3}, {"_": 1, "ab": 2, "price in $": 3}),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
)
def test_every_value_has_a_json_form(value: object, expected: object) -> None:
    assert json_value(value) == expected


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.decimals() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


@given(ANYTHING)
def test_the_form_is_strict_json_in_utf8(value: object) -> None:
    json.dumps(json_value(value), allow_nan=False, ensure_ascii=False).encode("utf-8")


@given(ANYTHING)
def test_the_form_comes_back_from_the_database_as_it_went_in(value: object) -> None:
    form = {"fields": json_value(value)}
    assert bson.decode(bson.encode(form)) == form


def test_endless_nesting_ends() -> None:
    nested: list[object] = []
    for _ in range(500):
        nested = [nested]
    json.dumps(json_value(nested))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_double_that_was_written_in_full_is_exact(value: object) -> None:
    assert exact_float(repr(value)) == exact_float(f"{value:.16e}") == value


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_number_that_is_kept_has_the_digits_it_was_written_with(number: Decimal) -> None:
    value = exact_float(str(number))
    digits = len(number.as_tuple().digits)
    assert value is None or Decimal(f"{value:.{digits - 1}e}") == number or Decimal(repr(value)) == number
