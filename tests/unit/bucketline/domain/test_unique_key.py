import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketline.domain.schema import same
from bucketline.domain.unique_key import canonical_key, change_faults, config_faults, key_faults, key_values

SCHEMA: dict[str, Any] = {
    "properties": {
        "sku": {"type": "string"},
        "region": {"type": "integer"},
        "photo": {"type": "image"},
        "tags": {"type": "array"},
    }
}


@pytest.mark.parametrize(
    "config",
    [
        {"fields": ["sku"]},
        {"fields": ["sku", "region"], "default_policy": None},
        *({"fields": ["sku"], "default_policy": policy} for policy in ("insert", "update", "upsert")),
    ],
)
def test_a_key_of_scalar_properties_is_fine(config: dict[str, object]) -> None:
    assert config_faults(config, SCHEMA) == []


@pytest.mark.parametrize(
    ("config", "kind", "where"),
    [
        ({}, "missing", ["fields"]),
        ({"fields": "sku"}, "list_type", ["fields"]),
        ({"fields": []}, "too_short", ["fields"]),
        ({"fields": ["sku"] * 11}, "too_long", ["fields"]),
        ({"fields": [1]}, "string_type", ["fields", 0]),
        ({"fields": ["sku", "sku"]}, "duplicate", ["fields", 1]),
        ({"fields": ["sku", "other"]}, "unknown_property", ["fields", 1]),
        ({"fields": ["photo"]}, "scalar_type", ["fields", 0]),
        ({"fields": ["tags"]}, "scalar_type", ["fields", 0]),
        ({"fields": ["sku"], "default_policy": "replace"}, "enum", ["default_policy"]),
    ],
)
def test_a_key_that_cannot_work_is_refused(config: dict[str, object], kind: str, where: list[object]) -> None:
    (fault,) = config_faults(config, SCHEMA)
    assert (fault["type"], fault["location"]) == (kind, ["body", "unique_key", *where])


def test_only_the_default_policy_may_change() -> None:
    old = {"fields": ["sku", "region"], "default_policy": "upsert"}
    assert change_faults(old, {"fields": ["region", "sku"], "default_policy": "insert"}) == []
    assert change_faults(old, {"fields": ["sku", "region"], "default_policy": None}) == []
    assert [f["type"] for f in change_faults(old, {"fields": ["sku"]})] == ["fixed"]
    assert [f["type"] for f in change_faults(old, {"default_policy": "insert"})] == ["fixed"]
    assert [f["type"] for f in change_faults(old, {**old, "default_policy": "no"})] == ["enum"]
    assert [f["type"] for f in change_faults(None, old)] == ["fixed"]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "missing"),
        ("", "string_too_short"),
        ("  ", "string_too_short"),
        ("x" * 256, "string_too_long"),
        ([1], "scalar_type"),
        ({"a": 1}, "scalar_type"),
    ],
)
def test_each_unusable_value_is_one_row(value: object, kind: str) -> None:
    faults = key_faults(["sku", "region"], {"sku": value, "region": value})
    assert [(f["type"], f["location"]) for f in faults] == [(kind, ["body", "sku"]), (kind, ["body", "region"])]


def test_an_absent_field_is_refused_and_odd_values_are_not() -> None:
    assert [f["type"] for f in key_faults(["sku"], {})] == ["missing"]
    for value in (0, False, -0.0, "x" * 255, " x "):
        assert key_faults(["sku"], {"sku": value}) == []


def test_conflict_contains_the_key_values() -> None:
    assert key_values(["sku"], {"sku": "A-17", "other": [1]}) == {"sku": "A-17"}


SCALARS = (
    st.text(min_size=1, max_size=6)
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.sampled_from(["1", 1, 1.0, True, "true", '"', '",["b",', 0, -0.0, False])
)
KEYS = st.fixed_dictionaries({"a": SCALARS, "b": SCALARS})


@given(KEYS, KEYS)
def test_equal_strings_mean_equal_identities(left: dict[str, Any], right: dict[str, Any]) -> None:
    equal = all(same(left[name], right[name]) for name in "ab")
    assert (canonical_key(["a", "b"], left) == canonical_key(["b", "a"], right)) == equal


@given(KEYS)
def test_a_key_survives_json(key: dict[str, Any]) -> None:
    assert canonical_key(["a", "b"], json.loads(json.dumps(key))) == canonical_key(["b", "a"], key)
