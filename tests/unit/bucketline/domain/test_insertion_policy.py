import pytest

from bucketline.domain.insertion_policy import POLICIES, Policy, key_taken, put_fields, resolve_policy
from bucketline.errors import BadRequest, ValidationFailed

KEY = {"sku": "A-17"}


@pytest.mark.parametrize("policy", POLICIES)
def test_resolve_policy_prefers_the_query_to_the_bucket(policy: Policy) -> None:
    assert resolve_policy(policy, None, bucket_id="bkt_1") == policy
    assert resolve_policy(None, policy, bucket_id="bkt_1") == policy
    assert resolve_policy(policy, "insert", bucket_id="bkt_1") == policy


def test_resolve_policy_without_any_returns_400() -> None:
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


def test_resolve_policy_without_any_on_confirm_returns_422() -> None:
    with pytest.raises(ValidationFailed) as caught:
        resolve_policy(None, None, bucket_id="bkt_1", missing=422)
    assert caught.value.code == "policy_required"
    assert caught.value.issues[0]["location"] == ["query", "policy"]


@pytest.mark.parametrize("word", ["replace", "", "INSERT", "x" * 9999])
def test_resolve_policy_with_unknown_name_returns_400_despite_a_default(word: str) -> None:
    with pytest.raises(BadRequest) as caught:
        resolve_policy(word, "upsert", bucket_id="bkt_1")
    assert caught.value.code == "policy_invalid"
    assert len(str(caught.value.details)) < 400


def test_key_taken_names_the_object_that_has_the_key() -> None:
    assert key_taken("obj_7c1d9e52ab40", KEY).envelope() == {
        "success": False,
        "status": 409,
        "error": {
            "message": "an object with this unique key exists",
            "type": "AlreadyExistsError",
            "code": "unique_key_exists",
            "details": {"existing_object_id": "obj_7c1d9e52ab40", "unique_key": {"sku": "A-17"}},
        },
    }


def test_put_fields_changes_metadata_where_the_object_has_it() -> None:
    stored: dict[str, object] = {"metadata": {"state": "open", "kept": 1}, "sku": "A"}
    assert put_fields(stored, {"state": "paid", "new": 2}) == {"new": 2, "metadata": {"state": "paid", "kept": 1}}
    assert put_fields(stored, {"new": 2}) == {"new": 2}
    assert put_fields({"sku": "A"}, {"state": "paid"}) == {"state": "paid"}
    assert put_fields({"metadata": "words"}, {"state": "paid"}) == {"state": "paid"}
