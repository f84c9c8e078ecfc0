from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketline.domain.insertion_policy import (
    POLICIES,
    Decision,
    InsertNew,
    Policy,
    Refuse,
    UpdateExisting,
    decide,
    merged_fields,
    put_fields,
    resolve_policy,
)
from bucketline.errors import BadRequest, ValidationFailed

KEY = {"sku": "A-17"}


@pytest.mark.parametrize("policy", POLICIES)
def test_the_query_wins_over_the_bucket(policy: Policy) -> None:
    assert resolve_policy(policy, None, bucket_id="bkt_1") == policy
    assert resolve_policy(None, policy, bucket_id="bkt_1") == policy
    assert resolve_policy(policy, "insert", bucket_id="bkt_1") == policy


def test_no_policy_is_the_documented_400() -> None:
    with pytest.raises(BadRequest) as caught:
        resolve_policy(None, None, bucket_id="bkt_4e21aa90")
    assert caught.value.envelope() == {
        "success": False,
        "status": 400,
        "error": {
            "message": "the bucket has a unique_key: pass ?policy= or set unique_key.default_policy",
            "type": "BadRequestError",
            "code": "policy_required",
            "details": {"bucket_id": "bkt_4e21aa90", "allowed": ["insert", "update", "upsert"]},
        },
    }


def test_no_policy_on_confirm_is_422() -> None:
    with pytest.raises(ValidationFailed) as caught:
        resolve_policy(None, None, bucket_id="bkt_1", missing=422)
    assert caught.value.code == "policy_required"
    assert caught.value.issues[0]["location"] == ["query", "policy"]


@pytest.mark.parametrize("word", ["replace", "", "INSERT", "x" * 9999])
def test_any_other_word_is_400_and_the_default_does_not_hide_it(word: str) -> None:
    with pytest.raises(BadRequest) as caught:
        resolve_policy(word, "upsert", bucket_id="bkt_1")
    assert caught.value.code == "policy_invalid"
    assert len(str(caught.value.details)) < 400


def summary(decision: Decision) -> object:
    return decision.error.status if isinstance(decision, Refuse) else decision


@pytest.mark.parametrize(
    ("policy", "absent", "present"),
    [
        ("insert", InsertNew(), 409),
        ("update", 404, UpdateExisting("obj_1")),
        ("upsert", InsertNew(), UpdateExisting("obj_1")),
    ],
)
def test_the_table_of_the_contract(policy: Policy, absent: object, present: object) -> None:
    assert summary(decide(policy, None, KEY)) == absent
    assert summary(decide(policy, "obj_1", KEY)) == present


def test_the_409_names_the_object_that_has_the_key() -> None:
    decision = decide("insert", "obj_7c1d9e52ab40", KEY)
    assert isinstance(decision, Refuse)
    assert decision.error.envelope() == {
        "success": False,
        "status": 409,
        "error": {
            "message": "an object with this unique key exists",
            "type": "AlreadyExistsError",
            "code": "unique_key_exists",
            "details": {"existing_object_id": "obj_7c1d9e52ab40", "unique_key": {"sku": "A-17"}},
        },
    }


def test_an_update_replaces_fields_as_a_whole_and_keeps_the_rest() -> None:
    stored: dict[str, object] = {"vendor": {"name": "Acme", "city": "Ulm"}, "qty": 1}
    assert merged_fields(stored, {"vendor": {"name": "Bolt"}, "state": None}) == {
        "vendor": {"name": "Bolt"},
        "qty": 1,
        "state": None,
    }
    assert stored == {"vendor": {"name": "Acme", "city": "Ulm"}, "qty": 1}


def test_put_changes_metadata_where_the_object_holds_it() -> None:
    stored: dict[str, object] = {"metadata": {"state": "open", "kept": 1}, "sku": "A"}
    assert put_fields(stored, {"state": "paid", "new": 2}) == {"new": 2, "metadata": {"state": "paid", "kept": 1}}
    assert put_fields(stored, {"new": 2}) == {"new": 2}
    assert put_fields({"sku": "A"}, {"state": "paid"}) == {"state": "paid"}
    assert put_fields({"metadata": "words"}, {"state": "paid"}) == {"state": "paid"}


WRITES = st.lists(
    st.tuples(st.sampled_from(POLICIES), st.sampled_from("AB"), st.integers(0, 9), st.booleans()), max_size=30
)


@given(WRITES)
def test_any_series_of_writes_keeps_one_object_a_key(writes: list[tuple[Policy, str, int, bool]]) -> None:
    """Against the plainest model there is: a dict from key to value, and the identity a key got first."""
    model: dict[str, dict[str, Any]] = {}
    objects: dict[str, dict[str, Any]] = {}
    for number, (policy, key, value, delete_first) in enumerate(writes):
        if delete_first and key in model:
            del objects[model.pop(key)["id"]]
        existing = next((i for i, o in objects.items() if o["key"] == key), None)
        decision = decide(policy, existing, {"key": key})
        if isinstance(decision, InsertNew):
            objects[f"obj_{number}"] = {"key": key, "value": value}
        elif isinstance(decision, UpdateExisting):
            objects[decision.object_id] = {"key": key, "value": value}

        if key in model:
            expected: object = 409 if policy == "insert" else UpdateExisting(model[key]["id"])
            if policy != "insert":
                model[key]["value"] = value
        elif policy == "update":
            expected = 404
        else:
            expected = InsertNew()
            model[key] = {"id": f"obj_{number}", "value": value}
        assert summary(decision) == expected
    assert objects == {row["id"]: {"key": key, "value": row["value"]} for key, row in model.items()}
